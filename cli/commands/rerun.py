"""`keepstep checkout` and `keepstep lineage --prove`: run trained steps again, to the same bits.

Neither changes the home. Both start from the nearest kept checkpoint, or from the base.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from cli.commands.lineage import Target, read_lineage
from cli.config.locks import with_present_base
from cli.errors import UserError
from cli.home.paths import Home, new_directory
from cli.home.subprocesses import ask, refused
from cli.output.terminal import print_json, say

if TYPE_CHECKING:
    from core.values import Checkpoint
    from gpu.ipc.protocol import Reran, RerunRange
    from projections.lineage import Part


def check_out(home: Home, *, step: int | None, seq: int | None, to: Path, json: bool) -> None:
    """`keepstep checkout`: write the weights of a step to a new directory. Raises UserError."""
    from gpu.artifacts.commit import staging_of
    from journal import durable

    if (step is None) == (seq is None):
        raise UserError("one of --step and --seq is needed", "name either --step N or --seq S")
    target = new_directory(home, to)
    found = read_lineage(home, None if step is None else str(step), seq=seq)
    start = _nearest_checkpoint(found, found.global_step)
    with _scratch(staging_of(target)) as scratch:
        if start is not None and start.global_step == found.global_step:
            complete, rerun = _copy_checkpoint(home, start, scratch), None
        else:
            if not json:
                say(_plan_text(found, start), flush=True)
            rerun = _run_again(home, found, start, scratch)
            complete = scratch / rerun.checkpoint
        durable.rename_durably(complete, target)
    if json:
        steps = len(rerun.bits) if rerun else 0
        origin = start.id if start else None
        print_json({"global_step": found.global_step, "path": str(target), "from": origin, "steps_run": steps})
        return
    say(f"{target}  (step {found.global_step})")
    for change in _changes(found.parts, rerun):
        say(f"  the environment has changed, so the bits may differ: {change}")


def prove(home: Home, wanted: str | None, *, json: bool) -> bool:
    """`keepstep lineage --prove`: True if the last steps, run again, give the same bits. Raises UserError."""
    from cli.inbox.accept import file_sha256

    found = read_lineage(home, wanted)
    name, committed_directory = _committed(home, found)
    start = _nearest_checkpoint(found, found.global_step - 1)
    if not json:
        say(_plan_text(found, start), flush=True)
    problem = None
    with tempfile.TemporaryDirectory(prefix="keepstep-") as directory:
        rerun = _run_again(home, found, start, Path(directory))
        for global_step, loss, grad_norm in rerun.bits:
            before = found.state.recovery.step_log.at(global_step)
            if before not in {None, (loss, grad_norm)}:
                problem = problem or f"step {global_step} gave loss {loss}; in training it was {before[0]}"
        for path in sorted((Path(directory) / rerun.checkpoint).glob("*.safetensors")):
            committed = committed_directory / path.name
            if not committed.exists() or file_sha256(path) != file_sha256(committed):
                problem = problem or f"{path.name} differs from that in {name}"
    changes = _changes(found.parts, rerun)
    if json:
        steps = [step for step, _, _ in rerun.bits]
        print_json({"proved": problem is None, "problem": problem, "steps": steps, "changed": changes})
    elif problem is None:
        say(f"proved: the same losses, weights and optimizer state as in {name}, bit for bit")
    else:
        say(f"NOT PROVED: {problem}")
        for change in changes:
            say(f"  the environment has changed: {change}")
    return problem is None


def _committed(home: Home, found: Target) -> tuple[str, Path]:
    """The checkpoint of these weights and its directory; that of a version is in the backup made before it.

    Raises UserError if there is none.
    """
    if found.checkpoint is not None:
        return found.checkpoint, home.checkpoints / found.checkpoint
    if found.version is None:
        raise UserError(
            f"step {found.global_step} has no checkpoint to compare with",
            "name a kept checkpoint or a version: `keepstep checkpoints`, `keepstep versions`",
        )
    name = found.version.checkpoint
    for backup in found.state.retention.backups:
        if backup.held.checkpoint.id == name:
            return name, home.backups / backup.id / name
    raise UserError(
        f"{found.version.id} was made from {name}, which was deleted with its backup: there is nothing to compare",
        "`keepstep lineage --verify` checks its files; to prove later training, do it before `keepstep consolidate`",
    )


def _nearest_checkpoint(found: Target, global_step: int) -> Checkpoint | None:
    """The newest kept checkpoint up to that step on the way to the wanted weights; None: the base."""
    on_the_way = [each for each in found.kept if each.global_step <= global_step]
    return on_the_way[-1] if on_the_way else None


def _plan_text(found: Target, start: Checkpoint | None) -> str:
    base_step = min(part.global_from for part in found.parts if part.base == found.parts[-1].base)
    first = (start.global_step if start else base_step) + 1
    steps = f"steps {first} to {found.global_step}" if first < found.global_step else f"step {first}"
    return f"running {steps} again, from {start.id if start else found.parts[-1].base or 'the base'}"


def _run_again(home: Home, found: Target, start: Checkpoint | None, scratch: Path) -> Reran:
    """Run every step after `start`, or after the base. Raises UserError."""
    import msgspec

    from gpu.ipc.protocol import Refusal, Reran, Rerun

    base = found.parts[-1].base
    if base is not None and found.state.retention.version(base) is None:
        raise UserError(
            f"step {found.global_step} was trained on {base}, which was deleted",
            "name a step after a kept version: `keepstep versions list`",
        )
    if start is not None:
        (scratch / start.id).symlink_to(home.checkpoints / start.id)
    request = Rerun(
        home=str(home.root),
        scratch=str(scratch),
        checkpoint=start.id if start else None,
        rerun_ranges=tuple(
            replace(each, settings=with_present_base(home, each.settings))
            for each in rerun_ranges(found.parts, start.global_step if start else 0)
        ),
    )
    said = ask("gpu.training.rerun", request, otherwise="fix the installation of torch, then try again")
    answer = msgspec.json.decode(said, type=Reran | Refusal)
    if isinstance(answer, Refusal):
        raise refused("the steps could not be run again", answer, "`keepstep lineage --verify` tells more")
    return answer


def rerun_ranges(parts: Sequence[Part], after: int) -> Iterator[RerunRange]:
    """The steps of `parts` after a global step, and after the base of the last part."""
    from core.topics.training import carries_optimizer
    from gpu.ipc.protocol import RerunRange

    for part in parts:
        if part.global_to <= after or part.base != parts[-1].base:
            continue
        global_step = max(part.global_from, after)
        step = part.step_from + global_step - part.global_from
        yield RerunRange(
            job=part.job,
            attempt=part.attempts[-1],
            settings=part.settings,
            base=part.base,
            batches_sha256=part.plan.batches_sha256,
            global_step=global_step,
            step=step,
            until=part.step_to,
            carry_optimizer=carries_optimizer(part.settings, step),
            course=part.course,
            environment=part.environment,
        )


def _copy_checkpoint(home: Home, checkpoint: Checkpoint, scratch: Path) -> Path:
    """Copy a kept checkpoint after verifying every byte. Raises UserError."""
    from gpu.artifacts.artifact import CheckpointDirectory, find_problem
    from gpu.artifacts.manifest import names_below
    from journal import durable

    source, target = home.checkpoints / checkpoint.id, scratch / checkpoint.id
    problem = find_problem(CheckpointDirectory(source), checkpoint.manifest_sha256, every_byte=True)
    if problem is not None:
        raise UserError(f"{checkpoint.id}: {problem}", "the next daemon moves it to quarantine/; then try again")
    target.mkdir(0o700)
    for name in names_below(source):
        durable.make_directory((target / name).parent)
        durable.copy_durably(source / name, target / name)
    return target


def _changes(parts: Sequence[Part], rerun: Reran | None) -> list[str]:
    from core.topics.training import environment_changes

    return list(environment_changes(parts[-1].environment, rerun.environment)) if rerun is not None else []


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A scratch directory next to the target, so that a rename completes it. It is deleted at the end."""
    shutil.rmtree(path, ignore_errors=True)  # left by a killed command
    try:
        path.mkdir(0o700, parents=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written: {error.strerror}", "choose another directory") from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
