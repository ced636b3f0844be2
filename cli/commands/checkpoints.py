"""`keepstep checkpoints`: list, verify, export and prune the committed checkpoints.

Only `prune` changes the home: it deletes older checkpoints.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from cli.arguments.groups import ListGroup
from cli.arguments.resolve import find_checkpoint_id
from cli.commands.common import (
    HomeOption,
    JsonOption,
    delete_directories,
    format_size,
    print_rows,
    read_state,
)
from cli.errors import REFUSED, UserError
from cli.home.paths import Home, find_home
from cli.output.terminal import print_json, say

if TYPE_CHECKING:
    from core.state import State
    from core.values import Checkpoint

app = typer.Typer(cls=ListGroup, help="List, verify, export and prune checkpoints.")


class Verified(NamedTuple):
    """A verified checkpoint; `problem` is None if it is good."""

    checkpoint: Checkpoint
    problem: str | None


@app.command("list")
def list_(home: HomeOption = None, json: JsonOption = False) -> None:
    """List the checkpoints of the current branch."""
    show_checkpoints(find_home(home, reads_only=True), json=json)


@app.command()
def verify(
    home: HomeOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also load every tensor and refuse NaN and infinity.")] = False,
    json: JsonOption = False,
) -> None:
    """Verify every byte of every checkpoint; change nothing."""
    if not verify_checkpoints(find_home(home, reads_only=True), deep=deep, json=json):
        raise typer.Exit(REFUSED)


@app.command()
def prune(
    keep: Annotated[int, typer.Option("--keep", min=1, help="Keep the newest N, the head included.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Delete older checkpoints to free disk space.

    First it verifies every byte of those that stay.
    """
    prune_checkpoints(find_home(home), keep, json=json)


def show_checkpoints(home: Home, *, json: bool) -> None:
    """`keepstep checkpoints`."""
    from projections.status import plain

    state = read_state(home)
    rows = [{**plain(each), "path": str(home.checkpoints / each.id)} for each in state.head.checkpoints]
    print_rows(
        rows,
        {
            "step": lambda row: str(row["global_step"]),
            "checkpoint": lambda row: row["id"],
            "job": lambda row: row["job"][:12],
            "job's step": lambda row: str(row["step"]),
            "size": lambda row: format_size(row["size_bytes"]),
        },
        empty=_no_checkpoint(state),
        json=json,
    )


def verify_checkpoints(home: Home, *, deep: bool, json: bool) -> bool:
    """`keepstep checkpoints verify`: True if all are good."""

    found = []
    for each in verify_each(home, deep=deep):
        found.append(each)
        if not json:
            say(f"{each.checkpoint.id}  {each.problem or 'good'}", flush=True)  # the next one may take a while
    state = read_state(home)
    recovery = recovery_text(state, found)
    if json:
        rows = [
            {
                "id": checkpoint.id,
                "global_step": checkpoint.global_step,
                "path": str(home.checkpoints / checkpoint.id),
                "good": problem is None,
                "problem": problem,
            }
            for checkpoint, problem in found
        ]
        print_json({"good": recovery is None, "checkpoints": rows, "recovery": recovery})
    elif not found:
        say(_no_checkpoint(state))
    elif recovery is not None:
        say(f"  → {recovery}")
    return recovery is None


def verify_each(home: Home, *, deep: bool, but: Collection[str] = ()) -> Iterator[Verified]:
    """Verify every committed checkpoint except `but`, the oldest first."""
    from gpu.artifacts.artifact import CheckpointDirectory, find_problem

    for checkpoint in read_state(home).head.checkpoints:
        if checkpoint.id in but:
            continue
        directory = home.checkpoints / checkpoint.id
        artifact = CheckpointDirectory(directory, home.storage)
        problem = find_problem(artifact, checkpoint.manifest_sha256, every_byte=True)
        if problem is None and deep:
            problem = _problem_of_tensors(directory)
        # A running daemon may have deleted it while it was read; the journal says so before the directory is deleted.
        if problem is None or checkpoint.id in {each.id for each in read_state(home).head.checkpoints}:
            yield Verified(checkpoint, problem)


def recovery_text(state: State, found: Sequence[Verified]) -> str | None:
    """Describe what the next daemon does about bad checkpoints, as the state machine decides; None if all are good."""
    from core.commands import AnyCommand, QuarantineCheckpoint, StartDaemon
    from core.decide import decide
    from core.evolve import evolve

    head = state.head.checkpoint
    bad = [QuarantineCheckpoint(checkpoint=checkpoint.id, problem=problem) for checkpoint, problem in found if problem]
    if head is None or not bad:
        return None
    start = StartDaemon(pid=0, process_started_at=0.0, boot_id="", host="", keepstep="")
    commands: list[AnyCommand] = [start, *bad]
    for command in commands:
        for event in decide(state, command, 0.0):
            state = evolve(state, event)
    names = [each.checkpoint for each in bad]
    if any(left.id in names for left in state.head.checkpoints):
        return (
            "no good checkpoint is left, and the daemon will wait for you: "
            f"restore an undamaged copy of {head.id} from a backup, then `keepstep resume`"
        )
    quarantine = f"at its next start the daemon moves {', '.join(names)} to quarantine/"
    if state.head.checkpoint == head:
        return f"{quarantine}; nothing is lost: {head.id}, which the next step starts from, is good"
    origin = state.head.checkpoint.id if state.head.checkpoint is not None else "the base model"
    first = state.head.global_step + 1
    steps = f"steps {first} to {head.global_step}" if first < head.global_step else f"step {first}"
    again = f"runs {steps} again from {origin}"
    return f"{quarantine} and {again}, to the same bits"


def prune_checkpoints(home: Home, keep: int, *, json: bool = False) -> None:
    """`keepstep checkpoints prune`. Raises UserError while an older checkpoint may be needed, core.errors.Refused."""
    from contextlib import closing

    from cli.home.event_store import EventStore
    from core.commands import PruneCheckpoints
    from core.decide import decide
    from events.kinds import CheckpointPruned

    command = PruneCheckpoints(keep=keep)
    would = decide(read_state(home), command, 0.0)  # a refusal comes before anything large is read
    deleted = {event.checkpoint for event in would if isinstance(event, CheckpointPruned)}
    for checkpoint, problem in verify_each(home, deep=False, but=deleted):
        if problem is not None:
            raise UserError(
                f"{checkpoint.id} would stay, but it is damaged: {problem}; nothing was deleted",
                "the next daemon needs the older ones: `keepstep run` first",
            )
    with closing(EventStore.open(home)) as store, store.exclusive():
        size_bytes = {checkpoint.id: checkpoint.size_bytes for checkpoint in store.state.head.checkpoints}
        events = store.execute(command)
    delete_directories(home, events)
    if json:
        names = [event.checkpoint for event in events if isinstance(event, CheckpointPruned)]
        print_json({"deleted": [{"id": name, "size_bytes": size_bytes[name]} for name in names]})
        return
    for event in events:
        assert isinstance(event, CheckpointPruned)
        say(f"{event.checkpoint} is deleted ({format_size(size_bytes[event.checkpoint])})")


def find_checkpoint(state: State, wanted: str | None) -> Checkpoint:
    if not state.head.checkpoints:
        raise UserError(_no_checkpoint(state), "`keepstep versions list --all` lists what else can be exported")
    if wanted is None:
        return state.head.checkpoints[-1]
    found = find_checkpoint_id(state, wanted)
    return next(each for each in state.head.checkpoints if each.id == found)


def _no_checkpoint(state: State) -> str:
    from core.topics.head import nothing_trained

    return f"{nothing_trained(state)}, so there is no checkpoint"


def _problem_of_tensors(directory: Path) -> str | None:
    """Describe what is wrong with the tensors of a checkpoint, checked in a separate process; None if nothing is."""
    import msgspec

    from cli.home.subprocesses import ask

    said = ask("gpu.artifacts.tensor_check", str(directory), otherwise="omit --deep, or fix the installation of torch")
    return msgspec.json.decode(said, type=str | None)
