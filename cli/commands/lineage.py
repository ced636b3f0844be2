"""`keepstep lineage`: what went into the weights, whether it is still there, and whether a row is among it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.errors import UserError
from cli.home.paths import Home
from cli.home.subprocesses import ask, refused
from cli.inbox.history import arrived
from cli.output.terminal import shown_text
from projections.lineage import Part, Timeline

if TYPE_CHECKING:
    from core.state import State
    from core.versions import Checkpoint, Version
    from events.worker import TrainedFile
    from gpu.artifacts.manifest import Manifest
    from gpu.ipc.protocol import Located

SHOWN_CHARACTERS = 12
"""Of a hash: enough to tell files apart, and to find one."""


class Wanted(NamedTuple):
    """The weights that are asked about."""

    state: State
    parts: Sequence[Part]
    global_step: int
    kept: Sequence[Checkpoint]
    """The checkpoints on the way there, beside the same base, that are still there, the oldest first."""
    version: Version | None
    """The version that they are, if they are one."""

    @property
    def held(self) -> Checkpoint | None:
        """The checkpoint that holds them, if it is still there."""
        return next((each for each in self.kept if each.global_step == self.global_step), None)

    @property
    def checkpoint(self) -> str | None:
        """Its name."""
        return self.held.id if self.held is not None else None


class Check(NamedTuple):
    """One thing that the weights were made from, looked at again."""

    what: str
    problem: str | None


def show_lineage(home: Home, wanted: str | None, *, json: bool, verify: bool) -> bool:
    """`keepstep lineage`: whether, if it was to be verified, everything is as it was. Raises UserError."""
    import msgspec

    from cli.output.terminal import print_json, print_listing

    found = read_lineage(home, wanted)
    manifest = _manifest(home, found)
    checks = list(_checked(home, found, manifest)) if verify else []
    good = not any(check.problem for check in checks)
    if json:
        told: dict[str, Any] = {
            "global_step": found.global_step,
            "checkpoint": found.checkpoint,
            "version": found.version.id if found.version is not None else None,
            "base_sha256": manifest.lineage.base_sha256 if manifest is not None else None,
            "parts": [msgspec.to_builtins(part) for part in found.parts],
        }
        if verify:
            told |= {"good": good, "checks": [check._asdict() for check in checks]}
        print_json(told)
        return good
    first = found.parts[0].settings
    name = found.version.id if found.version is not None else found.checkpoint
    print(f"step {found.global_step}" + (f", {name}" if name else ", no checkpoint of its own"))
    sha256 = f", SHA-256 {manifest.lineage.base_sha256}" if manifest is not None else ""
    print(f"base      {found.parts[-1].base or first.model.path}{sha256}")
    method = msgspec.to_builtins(found.parts[-1].settings.method)
    print(f"method    {', '.join(f'{name} {value}' for name, value in method.items())}")
    for environment in _distinct(part.environment for part in found.parts):
        print(f"with      {', '.join(f'{name} {value}' for name, value in sorted(environment.items()))}")
    print_listing(["steps", "file", "rows", "its steps", "epochs", "attempts", "SHA-256"], [*map(_row, found.parts)])
    for what, problem in checks:
        print(f"{'good' if problem is None else 'CHANGED':9} {what}{f': {problem}' if problem else ''}")
    return good


def show_whether_it_contains(home: Home, wanted: str | None, place: str, *, json: bool) -> bool:
    """`keepstep lineage --contains FILE:LINE`, or a row's SHA-256: whether it is in the weights. Raises UserError."""
    from cli.output.terminal import print_json

    found = read_lineage(home, wanted)
    if re.fullmatch(r"[0-9a-f]{64}", place):
        places = list(_places_of(home, found.parts, place))
        places += [again for part, line in places for again in _mixed_in(found.parts, part.job, line)]
        no = "no: no row with these bytes is in these weights"
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
                print(f"unknown: no file called {name!r} ever arrived here; `keepstep lineage` has the names")
            return False
        places = [(part, line) for part in own]
        places += [again for job in {part.job for part in own} for again in _mixed_in(found.parts, job, line)]
        no = f"no: line {line} of {name} was not learned up to step {found.global_step}"
        no = no if places else f"no: nothing of {name} is in these weights"
    steps = sorted(set(_steps_with(home, places)))
    if json:
        print_json({"contains": bool(steps), "job": places[0][0].job if places else None, "global_steps": steps})
    else:
        print(f"yes: learned at step {', '.join(map(str, steps))}" if steps else no)
    return bool(steps)


def _mixed_in(parts: Sequence[Part], job: str, line: int) -> Iterator[tuple[Part, int]]:
    """Where the row on a line of an earlier file may have been mixed into later ones."""
    from gpu.data.plan.lines import line_of

    for part in parts:
        if job in part.settings.sources.replay:
            yield part, line_of(part.settings.sources.replay.index(job) + 1, line)


def _places_of(home: Home, parts: Sequence[Part], sha256: str) -> Iterator[tuple[Part, int]]:
    """Where rows with these bytes (a line without what ends it, an element of an array) stand in what was learned."""
    from gpu.data.read.record import Record
    from gpu.data.read.source import read_records

    for part in parts:
        for record in read_records(home.data_file(part.job), plain_text=part.settings.data.format == "plain_text"):
            if isinstance(record, Record) and hashlib.sha256(record.raw.rstrip(b"\r")).hexdigest() == sha256:
                yield part, record.line


def read_lineage(home: Home, wanted: str | None, *, seq: int | None = None) -> Wanted:
    """What went into a version, a checkpoint, or the weights after a step (None: the head), as the journal has it up to
    record `seq` (None: its end). Raises UserError if it knows no such thing."""
    latest, state, timeline = _folded(home, seq)
    if wanted is None and state.head is None:
        wanted = state.base
    if wanted is None and state.head is None:
        raise UserError("nothing is committed yet" if seq is None else f"nothing was committed at record {seq}")
    if wanted in timeline.published:
        branch, version = timeline.published[wanted], latest.version(wanted)
        return Wanted(latest, branch.parts, branch.parts[-1].global_to, (), version)
    there = {checkpoint.id for checkpoint in latest.checkpoints}
    by_name = timeline.branch_of(wanted) if wanted is not None else None
    if by_name is not None:
        branch, global_step = by_name, by_name.parts[-1].global_to
        there |= {left.checkpoint.id for left in latest.left}
    else:
        asked = str(state.global_step) if wanted is None else wanted
        if not asked.isdecimal() or not 1 <= int(asked) <= state.global_step:
            raise UserError(
                f"the journal knows no committed {wanted}",
                f"name a version, a checkpoint, or a step up to {state.global_step}",
            )
        branch, global_step = timeline.until(int(asked)), int(asked)
    left = [each.checkpoint for each in latest.left]
    next_to = branch.parts[-1].base
    mine = {name for _, name in branch.commits}
    kept = [
        each
        for each in (*left, *state.checkpoints)
        if each.id in there & mine and _begins(branch.parts, next_to) < each.global_step <= global_step
    ]
    return Wanted(latest, branch.parts, global_step, kept, None)


def _begins(parts: Sequence[Part], base: str | None) -> int:
    """The global step that a base stands at: the one before the first part that was trained beside it."""
    return next(part.global_from for part in parts if part.base == base)


def trained_files(home: Home) -> tuple[TrainedFile, ...]:
    """Every file, or steps of one, that went into the weights of the head. Reads the whole journal."""
    from events.worker import TrainedFile

    _, state, timeline = _folded(home, None)
    return tuple(
        TrainedFile(
            name=part.name,
            sha256=part.job,
            rows=part.plan.rows,
            epochs=part.plan.epochs,
            steps=(part.global_from + 1, part.global_to),
        )
        for part in timeline.until(state.global_step).parts
    )


def _folded(home: Home, seq: int | None) -> tuple[State, State, Timeline]:
    """The state now, and state and timeline as they stood at record `seq` (None: its end). Raises UserError."""
    from core.evolve import evolve
    from core.state import State as Empty
    from events.codec import decode_record
    from journal import history

    latest, then, timeline, last = Empty(), None, Timeline(), 0
    for record in history(home.journal, decode_record, storage=home.storage):
        if then is None:
            timeline.see(latest, record.event)
        latest, last = evolve(latest, record.event), record.seq
        if record.seq == seq:
            then = latest
    if seq is not None and then is None:
        raise UserError(f"the journal has no record {seq}", f"its records are numbered 1 to {last}")
    return latest, latest if then is None else then, timeline


def _manifest(home: Home, found: Wanted) -> Manifest | None:
    from gpu.artifacts.manifest import read_manifest
    from gpu.artifacts.version_manifest import read_version_manifest
    from gpu.errors import CheckpointBroken

    try:
        if found.version is not None:
            return read_version_manifest(home.versions / found.version.id, storage=home.storage).checkpoint
        return read_manifest(home.checkpoints / found.checkpoint, storage=home.storage) if found.checkpoint else None
    except (CheckpointBroken, OSError, ValueError):
        return None  # `--verify` says what is wrong with it


def _checked(home: Home, found: Wanted, manifest: Manifest | None) -> Iterator[Check]:
    """Every file and every setting that the weights depend on, held against what the journal says."""
    from cli.inbox.accept import file_sha256
    from gpu.artifacts import version_manifest
    from gpu.artifacts.manifest import problem_of
    from gpu.errors import ModelUnusable
    from gpu.model.base import base_directory, base_sha256

    whole = set()
    for job in dict.fromkeys(part.job for part in found.parts):
        path = home.data_file(job)
        try:
            problem = None if file_sha256(path, storage=home.storage) == job else "its bytes are not those of its name"
        except OSError as error:
            problem = f"it cannot be read: {error.strerror}"
        whole |= {job} if problem is None else set()
        yield Check(f"data {home.relative(path)}", problem)
    parts = [part for part in found.parts if part.job in whole]  # else it is said already why its plan is another
    for part, located in zip(parts, _located(home, [(part, ()) for part in parts]), strict=True):
        if located.batches_sha256 != part.plan.batches_sha256:
            otherwise = "this keepstep orders its rows otherwise than the one that learned it"
            yield Check(f"plan of {part.name}", located.problem or otherwise)
    if (held := found.held) is not None:
        problem = problem_of(home.checkpoints / held.id, held.manifest_sha256, every_byte=True, storage=home.storage)
        yield Check(f"checkpoint {held.id}", problem)
    if (version := found.version) is not None:
        problem = version_manifest.problem_of(
            home.versions / version.id, version.manifest_sha256, every_byte=True, storage=home.storage
        )
        yield Check(f"version {version.id}", problem)
    if manifest is None:
        return
    last = found.parts[-1]
    if manifest.lineage.settings != last.settings:
        yield Check("settings", "those in the checkpoint's manifest are not those in the journal")
    what = f"base {last.base or last.settings.model.path}"
    try:
        if last.base is not None:
            base = version_manifest.trained_beside(home.root, last.base)
        else:
            model = last.settings.model
            base = base_directory(model.path, home.root, revision=model.revision, fetch=False)
    except (ModelUnusable, OSError, ValueError) as error:
        yield Check(what, str(error))
        return
    if manifest.lineage.base_sha256:
        same = base_sha256(base) == manifest.lineage.base_sha256
        yield Check(what, None if same else "its config or its weights are not what they were")


def _parts_of(home: Home, parts: Sequence[Part], name: str) -> list[Part] | None:
    """Those of the file that a person means: by its name, the first digits of its SHA-256, or a path to its bytes.

    None: no such file ever arrived. Raises UserError if several did.
    """
    from cli.inbox.accept import file_sha256

    path = Path(name).expanduser()
    jobs = {file_sha256(path)} if path.is_file() else {part.job for part in parts if part.name == shown_text(name)}
    jobs = jobs or {part.job for part in parts if len(name) >= 6 and part.job.startswith(name)}
    jobs = jobs or set(arrived(home, name))
    if len(jobs) > 1:
        raise UserError(
            f"several files were called {name!r}", "name the first digits of its SHA-256: `keepstep lineage`"
        )
    return [part for part in parts if part.job in jobs] if jobs else None


def _steps_with(home: Home, places: Sequence[tuple[Part, int]]) -> Iterator[int]:
    """The global steps at which the rows on these lines were learned. Raises UserError if there is no such line, or
    it cannot be known."""
    by_part: dict[int, tuple[Part, list[int]]] = {}
    for part, line in places:
        by_part.setdefault(part.global_from, (part, []))[1].append(line)
    asked = [(part, tuple(lines)) for part, lines in by_part.values()]
    for part, lines in asked:
        _refuse_what_is_not_there(home, part, lines)
    for (part, _), located in zip(asked, _located(home, asked), strict=True):
        if located.problem:
            raise UserError(
                f"the steps of {part.name} cannot be worked out: {located.problem}", "`keepstep lineage --verify`"
            )
        if located.batches_sha256 != part.plan.batches_sha256:
            raise UserError(
                f"this keepstep orders the rows of {part.name} otherwise than the one that learned it",
                f"ask keepstep {part.keepstep}",
            )
        for steps in located.steps:
            yield from (
                part.global_from + step - part.step_from
                for step in steps
                if part.step_from < step <= part.step_to and step not in part.course.set_aside
            )


def _refuse_what_is_not_there(home: Home, part: Part, lines: Sequence[int]) -> None:
    """Raises UserError for a line that the file does not have."""
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
            f"{home.relative(path)} cannot be read: {error.strerror}", "put it back: its name is its SHA-256"
        ) from error
    for line in sorted(wanted):
        raise UserError(f"{part.name} has no row on line {line}", f"its last row is on line {last}")


def _located(home: Home, asked: Sequence[tuple[Part, tuple[int, ...]]]) -> Sequence[Located]:
    """The plan of each part as it is made today, and the steps of these lines in it. Raises UserError."""
    import msgspec

    from gpu.ipc.protocol import LocateRows, Locations, Refusal, Trained

    if not asked:
        return ()
    trained = tuple(
        Trained(job=part.job, settings=part.settings, tokenizer_sha256=part.plan.tokenizer_sha256, lines=lines)
        for part, lines in asked
    )
    order = LocateRows(home=str(home.root), trained=trained)
    said = ask("gpu.data.processes.row_locator", order, otherwise="mend transformers, then try again")
    answer = msgspec.json.decode(said, type=Locations | Refusal)
    if isinstance(answer, Refusal):
        raise refused("the steps could not be worked out", answer, "`keepstep lineage --verify` looks closer")
    return answer.located


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


def _distinct(environments: Iterator[dict[str, str]]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for environment in environments:
        if environment not in found:
            found.append(environment)
    return found
