"""`keepstep backup`: verified copies of the head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.arguments import completion
from cli.arguments.groups import ListGroup
from cli.arguments.resolve import find_backup_id
from cli.commands.common import HomeOption, JsonOption, delete_directories, format_size, print_rows, read_state
from cli.errors import REFUSED, UserError
from cli.home.paths import Home, find_home
from cli.output.terminal import print_json, say
from events.values import BackupType, backup_type

if TYPE_CHECKING:
    from core.values import Backup

app = typer.Typer(cls=ListGroup, help="List, make, verify and restore backups of the trained weights.")

NO_BACKUP = "there is no backup yet; `keepstep backup create` makes one"


@app.command()
def create(
    reason: Annotated[str, typer.Option("--reason", help="A note that is kept with the backup.")] = "",
    kind: Annotated[
        BackupType, typer.Option("--type", help="Why it is made. Retention treats all types alike.")
    ] = "manual",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Copy the head, and verify the copy."""
    create_backup(find_home(home), reason, kind=kind, json=json)


@app.command("list")
def list_(home: HomeOption = None, json: JsonOption = False) -> None:
    """List the backups."""
    show_backups(find_home(home, reads_only=True), json=json)


@app.command()
def verify(
    backup: Annotated[
        str | None,
        typer.Argument(
            help="Its name or its number. Default: all.",
            autocompletion=completion.backup,
        ),
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Verify every byte of backups; change nothing."""
    if not verify_backups(find_home(home, reads_only=True), backup, json=json):
        raise typer.Exit(REFUSED)


@app.command()
def restore(
    backup: Annotated[
        str,
        typer.Argument(
            help="Its name or its number.",
            autocompletion=completion.backup,
        ),
    ],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Continue training from a backup.

    The old head is kept: `keepstep versions restore` goes back to it.
    """
    restore_backup(find_home(home), backup, json=json)


@app.command()
def cleanup(
    retention_days: Annotated[float, typer.Option("--retention-days", min=0.0, help="Delete older backups.")],
    execute: Annotated[bool, typer.Option("--execute", help="Delete them. Default: only list them.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Delete old backups; the newest always stays.

    Without `--execute` it only lists them.
    """
    clean_up_backups(find_home(home), retention_days, execute=execute, json=json)


def create_backup(home: Home, reason: str, *, kind: BackupType = "manual", json: bool = False) -> None:
    """`keepstep backup create`. Raises UserError."""
    from contextlib import closing

    from cli.errors import STORAGE_FAILED
    from cli.home.backups import make_backup
    from cli.home.event_store import EventStore
    from gpu.errors import StorageFailed

    with closing(EventStore.open(home)) as store:
        try:
            name = make_backup(store, kind=kind, reason=reason)
        except StorageFailed as error:
            raise UserError(
                f"no backup was made: {error}", "free disk space or fix the disk, then try again", STORAGE_FAILED
            ) from error
        backup = store.state.retention.backup(name)
    assert backup is not None  # just journaled
    if json:
        print_json(_as_json(home, backup))
        return
    say(f"{home.backups / name}  ({backup.held.checkpoint.id}, {format_size(backup.size_bytes)}, verified)")


def show_backups(home: Home, *, json: bool) -> None:
    """`keepstep backup list`."""
    from cli.output.times import local_time

    rows = [_as_json(home, backup) for backup in read_state(home).retention.backups]
    print_rows(
        rows,
        {
            "backup": lambda row: row["id"],
            "type": lambda row: row["type"],
            "made": lambda row: local_time(row["made_at"]),
            "step": lambda row: str(row["held"]["checkpoint"]["global_step"]),
            "size": lambda row: format_size(row["size_bytes"]),
            "note": lambda row: row["reason"],
        },
        empty=NO_BACKUP,
        json=json,
    )


def _as_json(home: Home, backup: Backup) -> dict[str, Any]:
    from projections.status import plain

    return {**plain(backup), "type": backup_type(backup.id), "path": str(home.backups / backup.id)}


def verify_backups(home: Home, wanted: str | None, *, json: bool) -> bool:
    """`keepstep backup verify`: True if all are good. Raises UserError."""
    from gpu.artifacts.artifact import find_problem
    from gpu.artifacts.backup import BackupDirectory

    found: list[dict[str, Any]] = []
    state = read_state(home)
    wanted = find_backup_id(state, wanted) if wanted is not None else None
    for backup in state.retention.backups:
        if wanted in {None, backup.id}:
            artifact = BackupDirectory(home.backups / backup.id, home.storage)
            problem = find_problem(artifact, backup.manifest_sha256, every_byte=True)
            found.append({"id": backup.id, "good": problem is None, "problem": problem})
            if not json:
                say(f"{backup.id}  {problem or 'good'}", flush=True)
    if json:
        print_json(found)
    elif not found:
        say(NO_BACKUP)
    return all(each["good"] for each in found)


def restore_backup(home: Home, name: str, *, json: bool = False) -> None:
    """`keepstep backup restore`. Raises UserError, core.errors.Refused."""
    from cli.commands.models.head import backup_command, show_move

    show_move(home, backup_command(home, name), json=json)


def clean_up_backups(home: Home, days: float, *, execute: bool, json: bool = False) -> None:
    """`keepstep backup cleanup`. Raises core.errors.Refused."""
    from contextlib import closing

    from cli.home.event_store import EventStore
    from core.commands import DeleteBackups
    from core.decide import decide
    from events.kinds import BackupDeleted

    command = DeleteBackups(older_than_days=days)
    if execute:
        with closing(EventStore.open(home)) as store:
            events = store.execute(command)
        delete_directories(home, events)
    else:
        events = decide(read_state(home), command, home.clock.now())
    if json:
        rows = [
            {"id": each.backup, "size_bytes": each.size_bytes} for each in events if isinstance(each, BackupDeleted)
        ]
        print_json({"deleted": execute, "backups": rows})
        return
    for event in events:
        assert isinstance(event, BackupDeleted)
        say(f"{event.backup} {'is deleted' if execute else 'would be deleted'} ({format_size(event.size_bytes)})")
    if not execute:
        say("nothing was deleted; to delete: --execute")
