"""`keepstep lineage`: what the weights were trained on, and whether a row is part of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.arguments.resolve import Candidate, arrived, matching, resolve
from cli.commands.correction.provenance import provenance_text, read_provenance
from cli.config.locks import with_present_base
from cli.errors import UserError
from cli.home.paths import Home
from cli.home.snapshot_reader import read_records
from cli.home.subprocesses import ask, refused
from cli.output.terminal import Row, print_json, print_listing, print_report, say
from core.compatibility import with_base_of
from core.topics.head import nothing_trained
from projections.lineage import Lineage, Part, fold_lineage

if TYPE_CHECKING:
    from core.state import State
    from core.values import Checkpoint, Version
    from gpu.artifacts.manifest import Manifest
    from gpu.ipc.protocol import Located

SHOWN_CHARACTERS = 12
"""Characters of a hash that identify a file."""


class Target(NamedTuple):
    """The weights whose lineage is asked for."""

    state: State
    parts: Sequence[Part]
    global_step: int
    kept: Sequence[Checkpoint]
    """Checkpoints on the way to them, on the same base, that still exist; the oldest first."""
    version: Version | None
    """The version with these weights, if there is one."""

    @property
    def kept_checkpoint(self) -> Checkpoint | None:
        """The checkpoint with these weights, if it still exists."""
        return next((each for each in self.kept if each.global_step == self.global_step), None)

    @property
    def checkpoint(self) -> str | None:
        """The name of that checkpoint."""
        return self.kept_checkpoint.id if self.kept_checkpoint is not None else None


class Check(NamedTuple):
    """One file or setting of the weights, and what is wrong with it."""

    item: str
    problem: str | None


def show_lineage(home: Home, wanted: str | None, *, json: bool, verify: bool) -> bool:
    """`keepstep lineage`: False if `verify` finds a difference. Raises UserError."""
    import msgspec

    found = read_lineage(home, wanted)
    manifest = _manifest(home, found)
    checks = list(_verify(home, found, manifest)) if verify else []
    unchanged = not any(check.problem for check in checks)
    if json:
        report = lineage_report(found, manifest)
        if verify:
            report |= {"good": unchanged, "checks": [check._asdict() for check in checks]}
        print_json(report)
        return unchanged
    first = found.parts[0].settings
    name = found.version.id if found.version is not None else found.checkpoint
    say(f"step {found.global_step}" + (f", {name}" if name else ", without a checkpoint"))
    sha256 = f", SHA-256 {manifest.lineage.base_sha256}" if manifest is not None else ""
    rows = [Row("base", f"{found.parts[-1].base or first.model.path}{sha256}")]
    method = msgspec.to_builtins(found.parts[-1].settings.method)
    rows.append(Row("method", _pairs(method)))
    environments = (_pairs(dict(sorted(part.environment.items()))) for part in found.parts)
    rows += [Row("env", environment) for environment in dict.fromkeys(environments)]
    print_report(rows)
    print_listing(["steps", "file", "rows", "job's steps", "epochs", "attempts", "SHA-256"], [*map(_row, found.parts)])
    for item, problem in checks:
        say(f"{'good' if problem is None else 'CHANGED':9} {item}{f': {problem}' if problem else ''}")
    return unchanged


def lineage_report(found: Target, manifest: Manifest | None) -> dict[str, Any]:
    """A lineage as JSON values."""
    import msgspec

    return {
        "global_step": found.global_step,
        "checkpoint": found.checkpoint,
        "version": found.version.id if found.version is not None else None,
        "base_sha256": manifest.lineage.base_sha256 if manifest is not None else None,
        "parts": [msgspec.to_builtins(part) for part in found.parts],
    }


def show_contains(home: Home, wanted: str | None, place: str, *, json: bool) -> bool:
    """`keepstep lineage --contains`: True if this row was trained. Raises UserError."""

    found = read_lineage(home, wanted)
    if re.fullmatch(r"[0-9a-f]{64}", place):
        places = list(_find_row(home, found.parts, place))
        for part, line in list(places):
            places += _replayed_rows(found.parts, part.job, line)
        no = "no: no row with this SHA-256 was trained"
    else:
        name, _, number = place.rpartition(":")
        if not name or not number.isdecimal() or int(number) < 1:
            raise UserError(
                f"{place!r} is neither FILE:LINE nor the SHA-256 of a row", "for example `--contains notes.jsonl:3`"
            )
        line, own = int(number), _parts_of(home, found.parts, name)
        if own is None:
            if json:
                print_json({"contains": None, "job": None, "global_steps": []})
            else:
                say(f"unknown: no file named {name!r} ever arrived here; `keepstep lineage` lists the names")
            return False
        places = [(part, line) for part in own]
        for job in {part.job for part in own}:
            places += _replayed_rows(found.parts, job, line)
        no = f"no: line {line} of {name} was not trained up to step {found.global_step}"
        no = no if places else f"no: these weights were not trained on {name}"
    steps = sorted(set(_steps_with(home, places)))
    made = read_provenance(home, places[0][0].job, places[0][1]) if places else None
    if json:
        trained = places[0][0].job if places else None
        print_json({"contains": bool(steps), "job": trained, "global_steps": steps, "self_correction": made})
    else:
        say(f"yes: trained at step {', '.join(map(str, steps))}" if steps else no)
        if made is not None:
            say(provenance_text(home, made))
    return bool(steps)


def _replayed_rows(parts: Sequence[Part], job: str, line: int) -> Iterator[tuple[Part, int]]:
    """Later parts that may have replayed the row on this line of an earlier file."""
    from gpu.data.plan.lines import line_of

    for part in parts:
        if job in part.settings.sources.replay:
            yield part, line_of(part.settings.sources.replay.index(job) + 1, line)


def _find_row(home: Home, parts: Sequence[Part], sha256: str) -> Iterator[tuple[Part, int]]:
    """Parts and lines of the rows with this SHA-256: of a line without its end, or of an element of an array."""
    from gpu.data.read.record import Record
    from gpu.data.read.source import read_records as read_rows

    for part in parts:
        for record in read_rows(home.data_file(part.job), plain_text=part.settings.data.format == "plain_text"):
            if isinstance(record, Record) and hashlib.sha256(record.raw.rstrip(b"\r")).hexdigest() == sha256:
                yield part, record.line


def read_lineage(home: Home, wanted: str | None, *, seq: int | None = None) -> Target:
    """The lineage of a version, a checkpoint, or a step (None: the head), up to record `seq` (None: the last).

    Raises UserError if the journal knows no such weights.
    """
    latest, state, timeline = _folded(home, seq)
    if wanted is None and state.head.checkpoint is None:
        wanted = state.head.base
    if wanted is None and state.head.checkpoint is None:
        raise UserError(
            nothing_trained(state) if seq is None else f"nothing was committed yet at record {seq}",
            "name a version or a checkpoint: `keepstep versions list --all`",
        )
    wanted = None if wanted is None else _full_name(wanted, timeline)
    if wanted in timeline.published:
        branch, version = timeline.published[wanted], latest.retention.version(wanted)
        return Target(latest, branch.parts, branch.parts[-1].global_to, (), version)
    existing = {checkpoint.id for checkpoint in latest.head.checkpoints}
    by_name = timeline.branch_of(wanted) if wanted is not None else None
    if by_name is not None:
        branch, global_step = by_name, by_name.parts[-1].global_to
        existing |= {left.checkpoint.id for left in latest.head.detached}
    else:
        step = str(state.head.global_step) if wanted is None else wanted
        if not step.isdecimal() or not 1 <= int(step) <= state.head.global_step:
            raise UserError(
                f"{wanted} is not a version, a checkpoint or a committed step",
                f"name one of them; the last committed step is {state.head.global_step}",
            )
        branch, global_step = timeline.until(int(step)), int(step)
    detached = [each.checkpoint for each in latest.head.detached]
    base = branch.parts[-1].base
    committed = {name for _, name in branch.commits}
    kept = [
        each
        for each in (*detached, *state.head.checkpoints)
        if each.id in existing & committed and _base_step(branch.parts, base) < each.global_step <= global_step
    ]
    return Target(latest, branch.parts, global_step, kept, None)


def _full_name(wanted: str, timeline: Lineage) -> str:
    """The id of the version or the checkpoint that `wanted` names; `wanted` itself if it may be a step."""
    if wanted.isdecimal():
        return wanted
    published = [Candidate(name, numbers=(int(name[1:]),)) for name in timeline.published]
    known = [*published, *map(Candidate, timeline.committed())]
    advice = "name a version, a checkpoint or a step: `keepstep versions list --all`, `keepstep checkpoints`"
    return resolve(wanted, known, what="version or checkpoint", advice=advice)


def _base_step(parts: Sequence[Part], base: str | None) -> int:
    """The global step of a base: the last one before the first part that was trained on it."""
    return next(part.global_from for part in parts if part.base == base)


def _folded(home: Home, seq: int | None) -> tuple[State, State, Lineage]:
    """The state now, and state and lineage as they stood at record `seq` (None: its end). Raises UserError."""
    latest, state, lineage, last_seq = fold_lineage(read_records(home), seq)
    if state is None:
        raise UserError(f"the journal has no record {seq}", f"its records are numbered 1 to {last_seq}")
    return latest, state, lineage


def _manifest(home: Home, found: Target) -> Manifest | None:
    from gpu.artifacts.manifest import read_manifest
    from gpu.artifacts.version_manifest import read_version_manifest
    from gpu.errors import CheckpointBroken

    try:
        if found.version is not None:
            return read_version_manifest(home.versions / found.version.id, storage=home.storage).checkpoint
        return read_manifest(home.checkpoints / found.checkpoint, storage=home.storage) if found.checkpoint else None
    except (CheckpointBroken, OSError, ValueError):
        return None  # `--verify` reports what is wrong with it


def _verify(home: Home, found: Target, manifest: Manifest | None) -> Iterator[Check]:
    """Compare every file and setting of the weights with the journal."""
    from cli.inbox.accept import file_sha256
    from gpu.artifacts.artifact import CheckpointDirectory, find_problem
    from gpu.artifacts.version_manifest import VersionDirectory, training_base
    from gpu.errors import ModelUnusable
    from gpu.model.base import base_directory, base_sha256

    intact = set()
    for job in dict.fromkeys(part.job for part in found.parts):
        path = home.data_file(job)
        try:
            problem = None if file_sha256(path, storage=home.storage) == job else "its SHA-256 is not its name"
        except OSError as error:
            problem = f"unreadable: {error.strerror}"
        intact |= {job} if problem is None else set()
        yield Check(f"data {home.relative(path)}", problem)
    parts = [
        part for part in found.parts if part.job in intact
    ]  # the plan of a changed file differs, and that file is reported
    for part, located in zip(parts, _locate_rows(home, [(part, ()) for part in parts]), strict=True):
        if located.batches_sha256 != part.plan.batches_sha256:
            other_order = "this keepstep orders its rows differently from the one that trained it"
            yield Check(f"plan of {part.name}", located.problem or other_order)
    if (kept_checkpoint := found.kept_checkpoint) is not None:
        artifact = CheckpointDirectory(home.checkpoints / kept_checkpoint.id, home.storage)
        problem = find_problem(artifact, kept_checkpoint.manifest_sha256, every_byte=True)
        yield Check(f"checkpoint {kept_checkpoint.id}", problem)
    if (version := found.version) is not None:
        directory = VersionDirectory(home.versions / version.id, home.storage)
        problem = find_problem(directory, version.manifest_sha256, every_byte=True)
        yield Check(f"version {version.id}", problem)
    if manifest is None:
        return
    last = found.parts[-1]
    if with_base_of(manifest.lineage.settings, last.settings.model) != last.settings:
        yield Check("settings", "the checkpoint's manifest and the journal differ")
    item = f"base {last.base or last.settings.model.path}"
    try:
        if last.base is not None:
            base = training_base(home.root, last.base)
        else:
            model = with_present_base(home, last.settings).model
            base = base_directory(model.path, home.root, revision=model.revision, fetch=False)
    except (ModelUnusable, OSError, ValueError) as error:
        yield Check(item, str(error))
        return
    if manifest.lineage.base_sha256:
        same = base_sha256(base) == manifest.lineage.base_sha256
        yield Check(item, None if same else "its config or its weights have changed")


def _parts_of(home: Home, parts: Sequence[Part], name: str) -> list[Part] | None:
    """The parts of a file, by its name, the first digits of its SHA-256, or a path to a copy of it.

    None: no file of this name ever arrived; a path is known by its bytes. Raises UserError if several match.
    """
    from cli.inbox.accept import file_sha256

    path = Path(name).expanduser()
    if path.is_file():
        job = file_sha256(path)
    else:
        candidates = [Candidate(part.job, part.name) for part in parts]
        candidates = candidates if matching(name, candidates) else [*arrived(read_records(home))]
        if not matching(name, candidates):
            return None
        job = resolve(name, candidates, what="file", advice="`keepstep lineage` lists the first digits of each SHA-256")
    return [part for part in parts if part.job == job]


def _steps_with(home: Home, places: Sequence[tuple[Part, int]]) -> Iterator[int]:
    """The global steps that trained the rows on these lines. Raises UserError if a line does not exist."""
    by_part: dict[int, tuple[Part, list[int]]] = {}
    for part, line in places:
        by_part.setdefault(part.global_from, (part, []))[1].append(line)
    rows = [(part, tuple(lines)) for part, lines in by_part.values()]
    for part, lines in rows:
        _refuse_missing_lines(home, part, lines)
    for (part, _), located in zip(rows, _locate_rows(home, rows), strict=True):
        if located.problem:
            raise UserError(f"the steps of {part.name} are not known: {located.problem}", "`keepstep lineage --verify`")
        if located.batches_sha256 != part.plan.batches_sha256:
            raise UserError(
                f"this keepstep orders the rows of {part.name} differently from the one that trained it",
                f"run this command with keepstep {part.keepstep}",
            )
        for steps in located.steps:
            yield from (
                part.global_from + step - part.step_from
                for step in steps
                if part.step_from < step <= part.step_to and step not in part.course.skipped
            )


def _refuse_missing_lines(home: Home, part: Part, lines: Sequence[int]) -> None:
    """Raise UserError for a line that the file does not have."""
    from gpu.data.plan.lines import is_own
    from gpu.data.read.record import Record
    from gpu.data.read.source import read_records

    path, wanted, last = home.data_file(part.job), {line for line in lines if is_own(line)}, 0
    try:
        for record in read_records(path, plain_text=part.settings.data.format == "plain_text"):
            if isinstance(record, Record):
                wanted.discard(record.line)
                last = record.line
    except OSError as error:
        raise UserError(
            f"{home.relative(path)} cannot be read: {error.strerror}", "put the file back; its name is its SHA-256"
        ) from error
    for line in sorted(wanted):
        raise UserError(f"{part.name} has no row on line {line}", f"its last row is on line {last}")


def _locate_rows(home: Home, rows: Sequence[tuple[Part, tuple[int, ...]]]) -> Sequence[Located]:
    """The batch plan of each part, planned again, and the steps of these lines in it. Raises UserError."""
    import msgspec

    from gpu.ipc.protocol import LocateRows, Locations, Refusal, TrainedJob

    if not rows:
        return ()
    trained = tuple(
        TrainedJob(
            job=part.job,
            settings=with_present_base(home, part.settings),
            tokenizer_sha256=part.plan.tokenizer_sha256,
            lines=lines,
        )
        for part, lines in rows
    )
    request = LocateRows(home=str(home.root), trained=trained)
    said = ask(
        "gpu.data.processes.row_locator", request, otherwise="fix the installation of transformers, then try again"
    )
    answer = msgspec.json.decode(said, type=Locations | Refusal)
    if isinstance(answer, Refusal):
        raise refused("the steps could not be found", answer, "`keepstep lineage --verify` tells more")
    return answer.located


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _row(part: Part) -> list[str]:
    per_epoch = part.plan.steps_per_epoch
    epochs = f"{part.step_from // per_epoch + 1}" + (
        f"-{last}" if (last := -(-part.step_to // per_epoch)) > part.step_from // per_epoch + 1 else ""
    )
    return [
        f"{part.global_from + 1}-{part.global_to}",
        part.name,
        f"{part.plan.rows}{f' ({part.plan.replayed_rows} earlier)' if part.plan.replayed_rows else ''}",
        f"{part.step_from + 1}-{part.step_to} of {part.plan.steps_total}",
        f"{epochs} of {part.plan.epochs}",
        ", ".join(map(str, part.attempts)),
        part.job[:SHOWN_CHARACTERS],
    ]
