"""Move the head to a version, a checkpoint or a backup: check it, say what will happen, do it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

from cli.arguments.resolve import ORIGIN, find_backup_id
from cli.commands.common import delete_directories, format_size, read_state
from cli.errors import UserError
from cli.home.backups import restore_backup
from cli.home.event_store import EventStore
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from cli.output.terminal import print_json, say
from core.commands import MoveHead, RollBack
from core.decide import decide
from core.effects import RestoreCheckpoint
from core.state import State
from core.values import Version
from events.kinds import AnyEvent, CheckpointPruned, HeadMoved
from events.values import is_checkpoint_id
from gpu.artifacts.artifact import find_problem
from gpu.artifacts.backup import BackupDirectory
from gpu.artifacts.version_manifest import VersionDirectory


class Moved(NamedTuple):
    """The new head and the old one."""

    version: str | None
    """None: the origin."""
    checkpoint: str | None
    """None: the next step starts from the version itself."""
    old_head: str | None
    """Checkpoint or version; None: the origin."""

    @property
    def text(self) -> str:
        """What happened, as a sentence."""
        return f"training continues from {_named(self.version, self.checkpoint)}"


def _named(version: str | None, checkpoint: str | None) -> str:
    base = version or "the origin"
    return f"{checkpoint} on {base}" if checkpoint else base


def move_command(target: str) -> MoveHead:
    """The command that moves the head to a version, `origin` or a detached checkpoint, by its id."""
    if is_checkpoint_id(target):
        return MoveHead(checkpoint=target)
    return MoveHead(version=None if target == ORIGIN else target)


def backup_command(home: Home, name: str) -> MoveHead:
    """The command that moves the head to a backup, after every byte of it was verified. Raises UserError."""
    state = read_state(home)
    name = find_backup_id(state, name)
    backup = state.retention.backup(name)
    assert backup is not None  # it was found by its id
    artifact = BackupDirectory(home.backups / name, home.storage)
    problem = find_problem(artifact, backup.manifest_sha256, every_byte=True)
    if problem is not None:
        raise UserError(
            f"{name} is damaged: {problem}; nothing was changed", "choose another one: `keepstep backup list`"
        )
    return MoveHead(backup=name)


def move_head(home: Home, command: MoveHead | RollBack) -> Moved:
    """Move the head. Raises core.errors.Refused, UserError."""
    with closing(EventStore.open(home)) as store:
        before = store.state
        _refuse_damaged_version(home, before, decide(before, command, home.clock.now()))
        events = store.execute(command)
        delete_directories(home, events)
        state = store.state
        if state.head.pending_restore is not None and state.head.checkpoint is not None and not daemon_is_alive(home):
            restore_backup(
                store, RestoreCheckpoint(backup=state.head.pending_restore, checkpoint=state.head.checkpoint.id)
            )
    moved = next(event for event in events if isinstance(event, HeadMoved))
    return Moved(moved.version, moved.checkpoint, _head_of(before))


def _head_of(state: State) -> str | None:
    return state.head.checkpoint.id if state.head.checkpoint is not None else state.head.base


def show_move(home: Home, command: MoveHead | RollBack, *, json: bool) -> None:
    """Move the head and print the old and the new one. Raises core.errors.Refused, UserError."""
    moved = move_head(home, command)
    if json:
        print_json(moved._asdict())
        return
    say(moved.text)
    if moved.old_head is not None:
        say(f"the old head is kept; to go back: keepstep versions restore {moved.old_head}")


def preview_move(home: Home, command: MoveHead | RollBack) -> list[str]:
    """What moving the head would do, as sentences; nothing is changed. Raises core.errors.Refused, UserError."""
    state = read_state(home)
    would = decide(state, command, home.clock.now())
    _refuse_damaged_version(home, state, would)
    moved = next(event for event in would if isinstance(event, HeadMoved))
    lines = [f"Training will continue from {_named(moved.version, moved.checkpoint)}."]
    if moved.backup is not None:
        lines.append(f"Its files are copied from {moved.backup}.")
    lines.append(
        f"The present head, {_named(state.head.base, state.head.checkpoint.id if state.head.checkpoint else None)} "
        f"(step {state.head.global_step}), is kept and can be restored."
    )
    pruned = [event for event in would if isinstance(event, CheckpointPruned)]
    if pruned:
        size = format_size(sum(event.size_bytes for event in pruned))
        lines.append(
            f"Older checkpoints of its branch are deleted: {', '.join(e.checkpoint for e in pruned)} ({size})."
        )
    if state.consolidation.request is not None:
        lines.append("The requested consolidation is cancelled.")
    if state.queue:
        lines.append("The files that wait are then trained on the new head.")
    return lines


def _refuse_damaged_version(home: Home, state: State, would: Sequence[AnyEvent]) -> None:
    """Raise UserError if the head would move to a version whose files are damaged."""
    version = next((state.retention.version(event.version) for event in would if isinstance(event, HeadMoved)), None)
    if version is None:
        return
    problem = problem_of_version(home, version)
    if problem is not None:
        raise UserError(
            f"{version.id} is damaged: {problem}; the head was not moved",
            "restore its files from a copy, or name another version",
        )


def problem_of_version(home: Home, version: Version) -> str | None:
    """Describe what is wrong with the files of a version, by its manifest, names and sizes; None if nothing is."""
    artifact = VersionDirectory(home.versions / version.id, home.storage)
    return find_problem(artifact, version.manifest_sha256, every_byte=False)
