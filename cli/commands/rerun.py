"""`keepstep checkout` and `keepstep lineage --prove`: steps that were learned, learned once more, to the same bits.

Both read the home and leave it as it is. They start from the nearest checkpoint that is kept, or from the base.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cli.commands.lineage import Wanted, read_lineage
from cli.errors import UserError
from cli.home.paths import Home, new_directory
from cli.home.subprocesses import ask, refused

if TYPE_CHECKING:
    from core.values import Checkpoint
    from gpu.ipc.protocol import Reran, RerunRange
    from projections.lineage import Part


def check_out(home: Home, *, step: int | None, seq: int | None, to: Path, json: bool) -> None:
    """`keepstep checkout`: the weights as they stood after a step, in a directory of their own. Raises UserError."""
    from cli.output.terminal import print_json
    from gpu.artifacts.commit import staging_of
    from journal import durable

    if (step is None) == (seq is None):
        raise UserError("what is wanted is not clear", "name either --step N or --seq S")
    target = new_directory(home, to)
    found = read_lineage(home, None if step is None else str(step), seq=seq)
    start = _nearest(found, found.global_step)
    with _scratch(staging_of(target)) as scratch:
        if start is not None and start.global_step == found.global_step:
            whole, ran = _copied(home, start, scratch), None
        else:
            if not json:
                print(_intention(found, start), flush=True)
            ran = _run_again(home, found, start, scratch)
            whole = scratch / ran.checkpoint
        durable.rename_durably(whole, target)
    if json:
        steps = len(ran.bits) if ran else 0
        origin = start.id if start else None
        print_json({"global_step": found.global_step, "path": str(target), "from": origin, "steps_run": steps})
        return
    print(f"{target}  (step {found.global_step})")
    for change in _changes(found.parts, ran):
        print(f"  not as it was, so its bits may be others: {change}")


def prove(home: Home, wanted: str | None, *, json: bool) -> bool:
    """`keepstep lineage --prove`: whether the last steps, run once more, give the same bits. Raises UserError."""
    from cli.inbox.accept import file_sha256
    from cli.output.terminal import print_json

    found = read_lineage(home, wanted)
    if found.checkpoint is None:
        raise UserError(f"step {found.global_step} has no checkpoint to compare with", "name one that is kept")
    start = _nearest(found, found.global_step - 1)
    if not json:
        print(_intention(found, start), flush=True)
    problem = None
    with tempfile.TemporaryDirectory(prefix="keepstep-") as directory:
        ran = _run_again(home, found, start, Path(directory))
        for global_step, loss, grad_norm in ran.bits:
            before = found.state.recovery.step_log.at(global_step)
            if before not in {None, (loss, grad_norm)}:
                problem = problem or f"step {global_step} gave loss {loss}, when it was learned {before[0]}"
        for path in sorted((Path(directory) / ran.checkpoint).glob("*.safetensors")):
            committed = home.checkpoints / found.checkpoint / path.name
            if not committed.exists() or file_sha256(path) != file_sha256(committed):
                problem = problem or f"{path.name} came out otherwise than it stands in {found.checkpoint}"
    changes = _changes(found.parts, ran)
    if json:
        steps = [step for step, _, _ in ran.bits]
        print_json({"proved": problem is None, "problem": problem, "steps": steps, "changed": changes})
    elif problem is None:
        print(f"proved: the same losses, weights and optimizer state as in {found.checkpoint}, bit for bit")
    else:
        print(f"NOT PROVED: {problem}")
        for change in changes:
            print(f"  not as it was: {change}")
    return problem is None


def _nearest(found: Wanted, global_step: int) -> Checkpoint | None:
    """The newest checkpoint up to that step that is kept and lies on the way to the wanted weights; None: the base."""
    on_the_way = [each for each in found.kept if each.global_step <= global_step]
    return on_the_way[-1] if on_the_way else None


def _intention(found: Wanted, start: Checkpoint | None) -> str:
    begin = min(part.global_from for part in found.parts if part.base == found.parts[-1].base)
    first = (start.global_step if start else begin) + 1
    steps = f"steps {first} to {found.global_step}" if first < found.global_step else f"step {first}"
    return f"running the {steps} again, from {start.id if start else found.parts[-1].base or 'the base'}"


def _run_again(home: Home, found: Wanted, start: Checkpoint | None, scratch: Path) -> Reran:
    """Run everything behind `start`, or behind the base. Raises UserError."""
    import msgspec

    from gpu.ipc.protocol import Refusal, Reran, Rerun

    base = found.parts[-1].base
    if base is not None and found.state.retention.version(base) is None:
        raise UserError(
            f"step {found.global_step} was trained beside {base}, which was given up",
            "name a step behind a version that is kept: `keepstep versions list`",
        )
    if start is not None:
        (scratch / start.id).symlink_to(home.checkpoints / start.id)
    order = Rerun(
        home=str(home.root),
        scratch=str(scratch),
        checkpoint=start.id if start else None,
        rerun_ranges=tuple(rerun_ranges(found.parts, start.global_step if start else 0)),
    )
    said = ask("gpu.training.rerun", order, otherwise="mend torch, then try again")
    answer = msgspec.json.decode(said, type=Reran | Refusal)
    if isinstance(answer, Refusal):
        raise refused("the steps could not be run again", answer, "`keepstep lineage --verify` looks closer")
    return answer


def rerun_ranges(parts: Sequence[Part], after: int) -> Iterator[RerunRange]:
    """The steps of `parts` behind a global step, and behind the base that the last of them was trained beside, as
    orders."""
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


def _copied(home: Home, checkpoint: Checkpoint, scratch: Path) -> Path:
    """A checkpoint that is there already, every byte checked. Raises UserError."""
    from gpu.artifacts.artifact import CheckpointDirectory, find_problem
    from gpu.artifacts.manifest import names_below
    from journal import durable

    source, target = home.checkpoints / checkpoint.id, scratch / checkpoint.id
    problem = find_problem(CheckpointDirectory(source), checkpoint.manifest_sha256, every_byte=True)
    if problem is not None:
        raise UserError(f"{checkpoint.id}: {problem}", "a daemon that starts sets it aside; then try again")
    target.mkdir(0o700)
    for name in names_below(source):
        durable.make_directory((target / name).parent)
        durable.copy_durably(source / name, target / name)
    return target


def _changes(parts: Sequence[Part], ran: Reran | None) -> list[str]:
    from core.topics.training import environment_changes

    return list(environment_changes(parts[-1].environment, ran.environment)) if ran is not None else []


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A directory beside the target, so that what is made in it needs only a new name; gone in the end."""
    shutil.rmtree(path, ignore_errors=True)  # of one that was killed
    try:
        path.mkdir(0o700, parents=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written to: {error.strerror}", "choose another place") from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
