"""`keepstep checkpoints` lists what is committed, `verify` proves it, `export` makes an ordinary model of it.

None of them changes anything in the home; `prune` does, and gives up the older ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cli.commands.journal import HomeOption, JsonOption
from cli.errors import REFUSED, UserError
from cli.home.paths import Home, find_home, new_directory

if TYPE_CHECKING:
    from core.state import State
    from core.values import Checkpoint

app = typer.Typer(name="checkpoints", invoke_without_command=True)


class Found(NamedTuple):
    """What verifying one checkpoint came to; good where there is no problem."""

    checkpoint: Checkpoint
    problem: str | None


@app.callback()
def listing(context: typer.Context, home: HomeOption = None, json: JsonOption = False) -> None:
    """List the committed checkpoints; the last one is the head. `verify` checks them."""
    if context.invoked_subcommand is None:
        show_checkpoints(find_home(home, reads_only=True), json=json)
    else:
        context.obj = (home, json)  # `checkpoints --json verify` means the same as `checkpoints verify --json`


@app.command()
def verify(
    context: typer.Context,
    home: HomeOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Load every tensor too; all of it must be numbers.")] = False,
    json: JsonOption = False,
) -> None:
    """Check every byte of every committed checkpoint, and change nothing."""
    outer_home, outer_json = context.obj
    if not verify_checkpoints(find_home(home or outer_home, reads_only=True), deep=deep, json=json or outer_json):
        raise typer.Exit(REFUSED)


@app.command()
def export(
    context: typer.Context,
    to: Annotated[Path, typer.Option("--to", help="The model's new directory, outside the home.")],
    checkpoint: Annotated[str | None, typer.Argument(help="Its name, or its step; else the head.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float32, bfloat16 or float16; else as the base has it."),
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Merge what was learned into an ordinary model, for plain transformers."""
    outer_home, outer_json = context.obj
    export_checkpoint(find_home(home or outer_home), checkpoint, to, dtype, json=json or outer_json)


@app.command()
def prune(
    context: typer.Context,
    keep: Annotated[int, typer.Option("--keep", min=1, help="The newest N stay; the head is one of them.")],
    home: HomeOption = None,
) -> None:
    """Give up older checkpoints for the room they take; first those that stay are checked, every byte."""
    prune_checkpoints(find_home(home or context.obj[0]), keep)


def show_checkpoints(home: Home, *, json: bool) -> None:
    """`keepstep checkpoints`."""
    from cli.output.terminal import print_json, print_listing
    from projections.status import plain

    rows: list[dict[str, Any]] = [
        {**plain(checkpoint), "path": str(home.checkpoints / checkpoint.id)}
        for checkpoint in _state(home).head.checkpoints
    ]
    if json:
        print_json(rows)
    elif not rows:
        print("nothing is committed yet")
    else:
        shown = [
            [
                str(row["global_step"]),
                row["job"][:12],
                str(row["step"]),
                f"{row['size_bytes'] / 1e6:.1f} MB",
                row["path"],
            ]
            for row in rows
        ]
        print_listing(["step", "job", "its step", "size", "directory"], shown)


def verify_checkpoints(home: Home, *, deep: bool, json: bool) -> bool:
    """`keepstep checkpoints verify`: whether all are good."""
    from cli.output.terminal import print_json

    found = []
    for each in proved(home, deep=deep):
        found.append(each)
        if not json:
            print(f"{each.checkpoint.id}  {each.problem or 'good'}", flush=True)  # the next may take a while
    then = consequences(_state(home), found)
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
        print_json({"good": then is None, "checkpoints": rows, "then": then})
    elif not found:
        print("nothing is committed yet")
    elif then is not None:
        print(f"  → {then}")
    return then is None


def proved(home: Home, *, deep: bool, but: Collection[str] = ()) -> Iterator[Found]:
    """Every committed checkpoint `but` these, the oldest first, and what is wrong with it."""
    from gpu.artifacts.artifact import CheckpointDirectory, find_problem

    for checkpoint in _state(home).head.checkpoints:
        if checkpoint.id in but:
            continue
        directory = home.checkpoints / checkpoint.id
        artifact = CheckpointDirectory(directory, home.storage)
        problem = find_problem(artifact, checkpoint.manifest_sha256, every_byte=True)
        if problem is None and deep:
            problem = _examined(directory)
        # A daemon that runs may have given it up while it was read: the journal says so before the directory goes.
        if problem is None or checkpoint.id in {each.id for each in _state(home).head.checkpoints}:
            yield Found(checkpoint, problem)


def consequences(state: State, found: Sequence[Found]) -> str | None:
    """What a daemon that starts now does about what is bad, as the machine decides it; None if nothing is."""
    from core.commands import AnyCommand, QuarantineCheckpoint, StartDaemon
    from core.decide import decide
    from core.evolve import evolve

    head = state.head.checkpoint
    bad = [QuarantineCheckpoint(checkpoint=checkpoint.id, problem=problem) for checkpoint, problem in found if problem]
    if head is None or not bad:
        return None
    start = StartDaemon(pid=0, process_started_at=0.0, boot_id="", host="", keepstep="")
    orders: list[AnyCommand] = [start, *bad]
    for command in orders:
        for event in decide(state, command, 0.0):
            state = evolve(state, event)
    names = [each.checkpoint for each in bad]
    if any(left.id in names for left in state.head.checkpoints):
        return (
            "no good checkpoint is left to go back to, and the daemon will wait for you: "
            f"put back an undamaged copy of {head.id} from a backup, then `keepstep resume`"
        )
    aside = f"at its next start the daemon sets {', '.join(names)} aside in quarantine/"
    if state.head.checkpoint == head:
        return f"{aside}; nothing is lost: {head.id}, which the next step starts from, is good"
    origin = state.head.checkpoint.id if state.head.checkpoint is not None else "the base model"
    again = f"runs the steps {state.head.global_step + 1} to {head.global_step} again from {origin}"
    return f"{aside} and {again}, to the same bits"


def export_checkpoint(home: Home, wanted: str | None, to: Path, dtype: str | None, *, json: bool) -> None:
    """`keepstep checkpoints export`. Raises UserError."""
    state = _state(home)
    checkpoint = _wanted(state, wanted)
    exported(home, checkpoint.id, home.checkpoints / checkpoint.id, state.head.base, to, dtype, json=json)


def exported(
    home: Home, name: str, checkpoint: Path | None, version: str | None, to: Path, dtype: str | None, *, json: bool
) -> None:
    """Make an ordinary model of a version, or of a checkpoint that was trained beside one. Raises UserError."""
    import msgspec

    from cli.home.subprocesses import ask, refused
    from cli.output.terminal import print_json
    from gpu.ipc.protocol import DTYPES, Exported, ExportRequest, Refusal

    kind = next((name for name in DTYPES if name == dtype), None)
    if dtype is not None and kind is None:
        raise UserError(f"unknown dtype {dtype!r}", f"choose one of {', '.join(DTYPES)}")
    target = new_directory(home, to)
    if not json:
        what = "base and checkpoint are" if checkpoint is not None else f"{version} is"
        print(f"merging {name}; then {what} asked, and it must answer in the same way", flush=True)
    order = ExportRequest(
        home=str(home.root),
        checkpoint=str(checkpoint) if checkpoint is not None else None,
        version=version,
        target=str(target),
        dtype=kind,
    )
    said = ask("gpu.versions.export", order, otherwise="mend torch, then try again")
    answer = msgspec.json.decode(said, type=Exported | Refusal)
    if isinstance(answer, Refusal):
        raise refused(f"{name} was not exported", answer, "nothing was changed")
    if json:
        print_json(msgspec.to_builtins(answer))
        return
    print(f"{answer.target}  ({answer.size_bytes / 1e6:.1f} MB, {', '.join(answer.dtypes)})")
    if answer.applied is not None:
        print(f"  {answer.applied:.1%} of what was learned is in its weights", end="")
        print("" if answer.applied > 0.9 else "; the rest is too fine for them: `--dtype float32` keeps it all")
    print(f"  its logits are off by {answer.difference:.2%} from theirs", end="")
    print(f" (rounding explains {answer.tolerance:.1%} at most)")


def prune_checkpoints(home: Home, keep: int) -> None:
    """`keepstep checkpoints prune`. Raises UserError while an older one may be needed, core.errors.Refused."""
    from contextlib import closing

    from cli.daemon.sweep import discard
    from cli.home.event_store import EventStore
    from cli.home.identity import daemon_is_alive
    from core.commands import PruneCheckpoints
    from core.decide import decide
    from events.kinds import CheckpointPruned

    order = PruneCheckpoints(keep=keep)
    would = decide(_state(home), order, 0.0)  # refused before anything large is read
    abandoned = {event.checkpoint for event in would if isinstance(event, CheckpointPruned)}
    for checkpoint, problem in proved(home, deep=False, but=abandoned):
        if problem is not None:
            raise UserError(
                f"{checkpoint.id} would stay, and it is bad: {problem}; nothing was pruned",
                "the older ones are what a daemon that starts goes back to: `keepstep run` first",
            )
    with closing(EventStore.open(home)) as store, store.exclusive():
        size_bytes = {checkpoint.id: checkpoint.size_bytes for checkpoint in store.state.head.checkpoints}
        events = store.execute(order)
    for event in events:
        assert isinstance(event, CheckpointPruned)
        if not daemon_is_alive(home):  # one that runs deletes it itself
            discard(home, home.checkpoints / event.checkpoint)
        print(f"{event.checkpoint} is given up ({size_bytes[event.checkpoint] / 1e6:.1f} MB)")


def _wanted(state: State, wanted: str | None) -> Checkpoint:
    if not state.head.checkpoints:
        raise UserError("nothing is committed yet")
    if wanted is None:
        return state.head.checkpoints[-1]
    for checkpoint in state.head.checkpoints:
        if wanted in {checkpoint.id, str(checkpoint.global_step)}:
            return checkpoint
    raise UserError(f"there is no checkpoint {wanted}", "`keepstep checkpoints` lists those that are kept")


def _state(home: Home) -> State:
    from cli.home.snapshot_reader import load_state

    return load_state(home)[0].state


def _examined(directory: Path) -> str | None:
    """What `gpu.artifacts.tensor_check` says."""
    import msgspec

    from cli.home.subprocesses import ask

    said = ask("gpu.artifacts.tensor_check", str(directory), otherwise="leave --deep out, or mend torch")
    return msgspec.json.decode(said, type=str | None)
