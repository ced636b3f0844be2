"""`keepstep backup`: copies of what was learned, that were read back when they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands.journal import HomeOption, JsonOption
from cli.errors import REFUSED, UserError
from cli.home.paths import Home, find_home

if TYPE_CHECKING:
    from core.state import State

app = typer.Typer(name="backup", help="Copy what was learned, and bring it back.", no_args_is_help=True)


@app.command()
def create(
    reason: Annotated[str, typer.Option("--reason", help="Why, in your words.")] = "",
    home: HomeOption = None,
) -> None:
    """Copy the head, and read the copy back."""
    create_backup(find_home(home), reason)


@app.command("list")
def list_(home: HomeOption = None, json: JsonOption = False) -> None:
    """List the backups."""
    show_backups(find_home(home, reads_only=True), json=json)


@app.command()
def verify(
    backup: Annotated[str | None, typer.Argument(help="Its name; else all.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Read backups again, every byte, and change nothing."""
    if not verify_backups(find_home(home, reads_only=True), backup, json=json):
        raise typer.Exit(REFUSED)


@app.command()
def restore(backup: Annotated[str, typer.Argument(help="Its name.")], home: HomeOption = None) -> None:
    """Go on from what a backup holds. What is left behind can be gone back to."""
    restore_backup(find_home(home), backup)


@app.command()
def cleanup(
    retention_days: Annotated[float, typer.Option("--retention-days", min=0.0, help="Older ones go.")],
    execute: Annotated[bool, typer.Option("--execute", help="Do it; else it is only shown.")] = False,
    home: HomeOption = None,
) -> None:
    """Give up old backups; the newest always stays. Shows what would go, unless `--execute`."""
    clean_up(find_home(home), retention_days, execute=execute)


def create_backup(home: Home, reason: str) -> None:
    """`keepstep backup create`. Raises UserError."""
    from contextlib import closing

    from cli.errors import STORAGE_FAILED
    from cli.home.backups import make_backup
    from cli.home.event_store import EventStore
    from gpu.errors import StorageFailed

    with closing(EventStore.open(home)) as store:
        try:
            name = make_backup(store, kind="manual", reason=reason)
        except StorageFailed as error:
            raise UserError(f"no backup was made: {error}", "make room or mend the disk", STORAGE_FAILED) from error
        backup = store.state.retention.backup(name)
    assert backup is not None  # just journaled
    print(f"{home.backups / name}  ({backup.held.checkpoint.id}, {backup.size_bytes / 1e6:.1f} MB, read back)")


def show_backups(home: Home, *, json: bool) -> None:
    """`keepstep backup list`."""
    from cli.output.terminal import local_time, print_json, print_listing
    from projections.status import plain

    state = _state(home)
    if json:
        print_json([{**plain(backup), "path": str(home.backups / backup.id)} for backup in state.retention.backups])
        return
    if not state.retention.backups:
        print("there is no backup yet; `keepstep backup create` makes one")
        return
    rows = [
        [
            backup.id,
            local_time(backup.made_at),
            backup.held.checkpoint.id,
            backup.held.base or "origin",
            f"{backup.size_bytes / 1e6:.1f} MB",
            backup.reason,
        ]
        for backup in state.retention.backups
    ]
    print_listing(["backup", "made", "holds", "beside", "size", "why"], rows)


def verify_backups(home: Home, wanted: str | None, *, json: bool) -> bool:
    """`keepstep backup verify`: whether all are good. Raises UserError."""
    from cli.output.terminal import print_json
    from gpu.artifacts.artifact import find_problem
    from gpu.artifacts.backup import BackupDirectory

    found: list[dict[str, Any]] = []
    state = _state(home)
    if wanted is not None and state.retention.backup(wanted) is None:
        raise UserError(f"there is no backup {wanted}", "`keepstep backup list` has those that there are")
    for backup in state.retention.backups:
        if wanted in {None, backup.id}:
            artifact = BackupDirectory(home.backups / backup.id, home.storage)
            problem = find_problem(artifact, backup.manifest_sha256, every_byte=True)
            found.append({"id": backup.id, "good": problem is None, "problem": problem})
            if not json:
                print(f"{backup.id}  {problem or 'good'}", flush=True)
    if json:
        print_json(found)
    elif not found:
        print("there is no backup yet")
    return all(each["good"] for each in found)


def restore_backup(home: Home, name: str) -> None:
    """`keepstep backup restore`. Raises UserError, core.errors.Refused."""
    from cli.commands.versions import move_head
    from core.commands import MoveHead
    from gpu.artifacts.artifact import find_problem
    from gpu.artifacts.backup import BackupDirectory

    backup = _state(home).retention.backup(name)
    if backup is None:
        raise UserError(f"there is no backup {name}", "`keepstep backup list` has those that there are")
    artifact = BackupDirectory(home.backups / name, home.storage)
    problem = find_problem(artifact, backup.manifest_sha256, every_byte=True)
    if problem is not None:
        raise UserError(f"{name} is not what was written: {problem}; nothing was changed", "`keepstep backup verify`")
    move_head(home, MoveHead(backup=name))


def clean_up(home: Home, days: float, *, execute: bool) -> None:
    """`keepstep backup cleanup`. Raises core.errors.Refused."""
    import time
    from contextlib import closing

    from cli.daemon.sweep import deleted_directory, discard
    from cli.home.event_store import EventStore
    from cli.home.identity import daemon_is_alive
    from core.commands import DeleteBackups
    from core.decide import decide
    from events.kinds import BackupDeleted

    order = DeleteBackups(older_than_days=days)
    if not execute:
        for event in decide(_state(home), order, time.time()):
            assert isinstance(event, BackupDeleted)
            print(f"{event.backup} would go ({event.size_bytes / 1e6:.1f} MB)")
        print("nothing was changed; `--execute` does it")
        return
    with closing(EventStore.open(home)) as store:
        events = store.execute(order)
    for event in events:
        assert isinstance(event, BackupDeleted)
        if (abandoned := deleted_directory(home, event)) is not None and not daemon_is_alive(home):
            discard(home, abandoned)
        print(f"{event.backup} is given up ({event.size_bytes / 1e6:.1f} MB)")


def _state(home: Home) -> State:
    from cli.home.snapshot_reader import load_state

    return load_state(home)[0].state
