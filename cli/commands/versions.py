"""`keepstep versions`: the models that were made, and which of them the next step starts from.

Going back never overwrites anything: it moves the head, and the way forward again stays open.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands.journal import HomeOption, JsonOption
from cli.errors import UserError
from cli.home.paths import Home, find_home

if TYPE_CHECKING:
    from core.state import State
    from core.values import Version
    from events.kinds import AnyEvent
    from projections.lineage import Part

app = typer.Typer(
    name="versions", help="Look at the versions that were made, and go back to one.", no_args_is_help=True
)

ORIGIN = "origin"
"""How a person names what everything began with."""


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="What was left behind, too.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """List the versions that led to the head; `--all`: every one that can be gone back to."""
    show_versions(find_home(home, reads_only=True), everything=everything, json=json)


@app.command()
def show(
    version: Annotated[str, typer.Argument(help="Its name.")], home: HomeOption = None, json: JsonOption = False
) -> None:
    """Say what one version was made of, and how exact it is."""
    show_version(find_home(home, reads_only=True), version, json=json)


@app.command()
def diff(
    version: Annotated[str, typer.Argument()],
    other: Annotated[str, typer.Argument()],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Say what was learned for one version and not for the other."""
    show_difference(find_home(home, reads_only=True), version, other, json=json)


@app.command()
def restore(
    name: Annotated[str, typer.Argument(help='A version, "origin", or a checkpoint that was left behind.')],
    home: HomeOption = None,
) -> None:
    """Go on from there. What is left behind can be gone back to."""
    from core.commands import MoveHead
    from events.values import is_checkpoint_id

    found = find_home(home)
    if is_checkpoint_id(name):
        move_head(found, MoveHead(checkpoint=name))
    else:
        move_head(found, MoveHead(version=None if name == ORIGIN else name))


@app.command()
def rollback(home: HomeOption = None) -> None:
    """Go back behind what was learned last: to the head's version, or, if it is that, to the one before it."""
    from core.commands import RollBack

    move_head(find_home(home), RollBack())


@app.command()
def delete(
    version: Annotated[str, typer.Argument(help="A version, or a checkpoint that was left behind.")],
    confirm: Annotated[bool, typer.Option("--confirm", help="Yes, for good.")] = False,
    home: HomeOption = None,
) -> None:
    """Give a version up, for good. Not the head's, nor one that another is built on."""
    delete_version(find_home(home), version, confirmed=confirm)


@app.command()
def export(
    version: Annotated[str, typer.Argument(help="Its name.")],
    to: Annotated[Path, typer.Option("--to", help="The model's new directory, outside the home.")],
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; else as it is.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Put a version into a directory of its own, rounded (once) as you want it."""
    export_version(find_home(home), version, to, dtype, json=json)


def show_versions(home: Home, *, everything: bool, json: bool) -> None:
    """`keepstep versions list`."""
    from cli.output.terminal import local_time, print_json, print_listing
    from projections.status import plain

    state = _state(home)
    line = _line(state)
    shown = [version for version in state.retention.versions if everything or version.id in line]
    left = state.head.detached if everything else ()
    if json:
        print_json(
            {
                "head": {
                    "version": state.head.base,
                    "checkpoint": state.head.checkpoint.id if state.head.checkpoint else None,
                },
                "versions": [{**plain(version), "path": str(home.versions / version.id)} for version in shown],
                "left": [plain(each) for each in left],
            }
        )
        return
    if not shown and not left:
        print("no version was made yet; `keepstep consolidate` makes one of what was learned")
        return
    rows = [
        [
            f"{version.id}{' ← head' if version.id == state.head.base else ''}",
            str(version.global_step),
            version.parent or ORIGIN,
            local_time(version.made_at),
            f"{version.size_bytes / 1e6:.1f} MB",
            _said(home, version),
        ]
        for version in shown
    ]
    rows += [
        [each.checkpoint.id, str(each.checkpoint.global_step), each.base or ORIGIN, "", size, "left behind"]
        for each in left
        for size in [f"{each.checkpoint.size_bytes / 1e6:.1f} MB"]
    ]
    print_listing(["version", "step", "beside", "made", "size", ""], rows)


def _said(home: Home, version: Version) -> str:
    problem = problem_of_version(home, version)
    return version.description if problem is None else f"DAMAGED: {problem}"


def problem_of_version(home: Home, version: Version) -> str | None:
    """Why what stands under its name is not what was published, by seal, names and sizes; None if it is."""
    from gpu.artifacts.artifact import find_problem
    from gpu.artifacts.version_manifest import VersionDirectory

    artifact = VersionDirectory(home.versions / version.id, home.storage)
    return find_problem(artifact, version.manifest_sha256, every_byte=False)


def show_version(home: Home, name: str, *, json: bool) -> None:
    """`keepstep versions show`."""
    from cli.commands.lineage import show_lineage
    from cli.output.event_lines import applied_text
    from cli.output.terminal import local_time, print_json
    from projections.status import plain

    state = _state(home)
    version = _version(state, name)
    if json:
        print_json({**plain(version), "path": str(home.versions / version.id), "head": state.head.base == version.id})
        return
    print(f"{version.id}  {home.versions / version.id}")
    if version.description:
        print(f"said      {version.description}")
    print(f"made      {local_time(version.made_at)}, of {version.checkpoint} beside {version.parent or 'the origin'}")
    said = applied_text(version.applied, version.in_place)
    print(f"exact     {said or 'nothing was trained'}")
    if (problem := problem_of_version(home, version)) is not None:
        print(f"DAMAGED   {problem}")
    print(f"answers   its logits are off by {version.difference:.2%} from those of base and checkpoint")
    show_lineage(home, version.id, json=False, verify=False)


def show_difference(home: Home, name: str, other: str, *, json: bool) -> None:
    """`keepstep versions diff`."""
    from cli.commands.lineage import read_lineage
    from cli.output.terminal import print_json, print_listing

    state = _state(home)
    one, two = (
        () if each == ORIGIN else tuple(read_lineage(home, _version(state, each).id).parts) for each in (name, other)
    )
    gone, added = _only_in(one, two), _only_in(two, one)
    settings = _changed_settings(one, two)
    if json:
        told = {name: [_told(part) for part in gone], other: [_told(part) for part in added], "settings": settings}
        print_json(told)
        return
    for what, parts in ((name, gone), (other, added)):
        if parts:
            print(f"learned for {what} only:")
            print_listing(
                ["steps", "file", "rows", "SHA-256"], [list(map(str, _told(part).values())) for part in parts]
            )
        else:
            print(f"learned for {what} only: nothing")
    for change in settings:
        print(f"settings: {change}")


def _only_in(parts: tuple[Part, ...], others: tuple[Part, ...]) -> list[Part]:
    there = {(part.job, part.global_from, part.global_to, part.attempts) for part in others}
    return [part for part in parts if (part.job, part.global_from, part.global_to, part.attempts) not in there]


def _told(part: Part) -> dict[str, Any]:
    return {
        "steps": f"{part.global_from + 1}-{part.global_to}",
        "file": part.name,
        "rows": part.plan.rows,
        "sha256": part.job,
    }


def _changed_settings(one: tuple[Part, ...], two: tuple[Part, ...]) -> list[str]:
    """What the last steps of both were trained with, where it is not the same."""
    import msgspec

    if not one or not two:
        return []
    before, after = (msgspec.to_builtins(parts[-1].settings) for parts in (one, two))
    return [
        f"{section}.{key}: {before[section].get(key)} → {after[section].get(key)}"
        for section in before
        for key in sorted({*before[section], *after[section]})
        if before[section].get(key) != after[section].get(key)
    ]


def move_head(home: Home, command: Any) -> None:
    """Move the head, and say where to and what was left. Raises core.errors.Refused, UserError."""
    from contextlib import closing

    from cli.daemon.sweep import deleted_directory, discard
    from cli.home.backups import restore_backup
    from cli.home.event_store import EventStore
    from cli.home.identity import daemon_is_alive
    from core.decide import decide
    from core.effects import RestoreCheckpoint
    from events.kinds import HeadMoved

    with closing(EventStore.open(home)) as store:
        before = store.state
        _refuse_what_is_not_there(home, before, decide(before, command, home.clock.now()))
        events = store.execute(command)
        alive = daemon_is_alive(home)
        for event in events:
            if (abandoned := deleted_directory(home, event)) is not None and not alive:
                discard(home, abandoned)
        state = store.state
        if state.head.pending_restore is not None and state.head.checkpoint is not None and not alive:
            restore_backup(
                store, RestoreCheckpoint(backup=state.head.pending_restore, checkpoint=state.head.checkpoint.id)
            )
    moved = next(event for event in events if isinstance(event, HeadMoved))
    next_to = f", beside {moved.version or 'the origin'}" if moved.checkpoint else ""
    print(f"the next step goes on from {moved.checkpoint or moved.version or 'the origin'}{next_to}")
    left = before.head.checkpoint.id if before.head.checkpoint is not None else before.head.base
    if left is not None:
        print(f"left behind: {left}; `keepstep versions restore {left}` goes back to it")


def _refuse_what_is_not_there(home: Home, state: State, would: Sequence[AnyEvent]) -> None:
    """A version that the head is to move to must be what was published, by names and sizes. Raises UserError."""
    from events.kinds import HeadMoved

    version = next((state.retention.version(event.version) for event in would if isinstance(event, HeadMoved)), None)
    if version is None:
        return
    problem = problem_of_version(home, version)
    if problem is not None:
        raise UserError(
            f"{version.id} is not what was published: {problem}; the head stays where it is",
            "put it back as it was, or name another one",
        )


def delete_version(home: Home, name: str, *, confirmed: bool) -> None:
    """`keepstep versions delete`. Raises core.errors.Refused, UserError."""
    from contextlib import closing

    from cli.daemon.sweep import deleted_directory, discard
    from cli.home.event_store import EventStore
    from cli.home.identity import daemon_is_alive
    from core.commands import DeleteVersion
    from core.decide import decide

    if name == ORIGIN:
        raise UserError("the origin stays: every version is made of it", "keepstep deletes only what it made itself")
    order = DeleteVersion(version=name)
    (would,) = decide(_state(home), order, 0.0)
    if not confirmed:
        raise UserError(
            f"{name} would be deleted for good ({getattr(would, 'size_bytes', 0) / 1e6:.1f} MB); nothing was changed",
            f"`keepstep versions delete {name} --confirm` does it",
        )
    with closing(EventStore.open(home)) as store:
        for event in store.execute(order):
            if (abandoned := deleted_directory(home, event)) is not None and not daemon_is_alive(home):
                discard(home, abandoned)
    print(f"{name} is deleted")


def export_version(home: Home, name: str, to: Path, dtype: str | None, *, json: bool) -> None:
    """`keepstep versions export`. Raises UserError."""
    from cli.commands.checkpoints import exported

    version = _version(_state(home), name)
    problem = problem_of_version(home, version)
    if problem is not None:
        raise UserError(
            f"{version.id} is not what was published: {problem}; nothing was exported", "put it back as it was"
        )
    exported(home, version.id, None, version.id, to, dtype, json=json)


def _line(state: State) -> set[str]:
    """The versions that led to the head."""
    by_name = {version.id: version for version in state.retention.versions}
    line: set[str] = set()
    at = state.head.base
    while at is not None and at in by_name:
        line.add(at)
        at = by_name[at].parent
    return line


def _version(state: State, name: str) -> Version:
    version = state.retention.version(name)
    if version is None:
        raise UserError(f"there is no version {name}", "`keepstep versions list --all` has those that there are")
    return version


def _state(home: Home) -> State:
    from cli.home.snapshot_reader import load_state

    return load_state(home)[0].state
