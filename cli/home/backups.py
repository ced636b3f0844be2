"""Make backups of the head, and restore the head from one."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.identity import is_locked, open_lock
from cli.home.paths import Home
from core.commands import HoldWork, RecordBackup, RecordRestored
from core.effects import RestoreCheckpoint
from core.errors import Refused
from core.state import State
from core.topics.head import nothing_trained
from core.values import DetachedCheckpoint
from events.values import BackupType
from gpu.artifacts.artifact import CheckpointDirectory, find_problem
from gpu.artifacts.backup import BackupManifest, back_up
from gpu.errors import CheckpointBroken, StorageFailed
from journal import durable
from journal.failpoints import failpoint

SPARE = 3
"""Free space for an emergency backup, as a multiple of the checkpoint: the copy and the next two checkpoints."""


@contextmanager
def backup_lock_held(home: Home) -> Iterator[None]:
    """Hold the lock of `backups/`, so that the daemon does not sweep a backup that is not journaled yet.

    Raises UserError if another process holds it.
    """
    fd = open_lock(home, home.backup_lock)
    try:
        if not home.storage.try_lock(fd):
            raise UserError("another backup is being made", "try again when it is done")
        yield
    finally:
        home.storage.close(fd)


def backup_is_running(home: Home) -> bool:
    """True if a command writes into `backups/` now."""
    return is_locked(home, home.backup_lock)


def make_backup(store: EventStore, *, kind: BackupType, reason: str) -> str:
    """Copy the head, verify the copy, journal it. Returns its name. Raises UserError, gpu.errors.StorageFailed."""
    home = store.home
    durable.make_directory(home.backups, storage=home.storage)
    durable.make_directory(home.run, storage=home.storage)
    with backup_lock_held(home):
        with store.exclusive():  # under the backup lock: another backup may have taken the number
            state = store.state
        held = _held(state)
        name = f"{kind}-{state.retention.backups_made + 1:04d}"
        if home.storage.exists(home.backups / name):  # left by a backup that was killed before its record
            durable.remove_tree(home.backups / name, storage=home.storage)
        manifest = BackupManifest(
            backup=name,
            reason=reason,
            version=held.base,
            checkpoint=held.checkpoint.id,
            checkpoint_sha256=held.checkpoint.manifest_sha256,
            files={},
        )
        try:
            made = back_up(home.backups, manifest, home.checkpoints / held.checkpoint.id, storage=home.storage)
        except CheckpointBroken as error:
            raise UserError(
                f"no backup was made: {error}", "find good ones with `keepstep checkpoints verify`; then try again"
            ) from error
        store.execute(
            RecordBackup(
                backup=name, reason=reason, held=held, size_bytes=made.size_bytes, manifest_sha256=made.manifest_sha256
            )
        )
    return name


def make_emergency_backup(store: EventStore, say: Callable[[str], None]) -> None:
    """After a quarantine, back up the head: a disk that damages one checkpoint may damage the next.

    A failure is reported and stops nothing.
    """
    home, head = store.home, store.state.head.checkpoint
    if head is None:
        return
    try:
        if home.storage.free_bytes(home.root) < SPARE * head.size_bytes:
            say(f"no backup of {head.id} was made: too little disk space would be left")
            return
        name = make_backup(store, kind="emergency", reason="another checkpoint was damaged")
    except (UserError, StorageFailed, Refused) as error:
        say(f"no backup of {head.id} was made: {error}")
        return
    say(f"backed up {head.id} as {name}, because another checkpoint is damaged")


def _held(state: State) -> DetachedCheckpoint:
    if state.head.checkpoint is None or state.head.weight_settings is None:
        raise UserError(f"{nothing_trained(state)}, so there is nothing to back up", _backup_advice(state))
    return DetachedCheckpoint(
        base=state.head.base, checkpoint=state.head.checkpoint, weight_settings=state.head.weight_settings
    )


def _backup_advice(state: State) -> str:
    base = state.head.base
    if base is None:
        return "train first: `keepstep add FILE`, then `keepstep run`"
    made = [backup.id for backup in state.retention.backups if backup.id.startswith(f"before-{base}-")]
    kept = f"the training in {base} is kept in the backup {made[-1]}; " if made else ""
    return f"{kept}to copy the model elsewhere: `keepstep versions export {base} --to DIRECTORY`"


def restore_backup(store: EventStore, effect: RestoreCheckpoint) -> None:
    """Copy the head back from its backup, unless it is complete in its place. Raises OSError."""
    home, head = store.home, store.state.head.checkpoint
    assert head is not None  # the effect restores it
    place = home.checkpoints / effect.checkpoint
    checkpoint = CheckpointDirectory(place, home.storage)
    if find_problem(checkpoint, head.manifest_sha256, every_byte=True) is not None:
        try:
            if home.storage.exists(place):
                durable.remove_tree(place, storage=home.storage)
            checkpoint.restore(home.backups / effect.backup / effect.checkpoint, head.manifest_sha256)
        except StorageFailed as error:
            # the daemon handles it like any full or failing disk
            raise OSError(error.errno or errno.EIO, str(error), str(place)) from error
        except (CheckpointBroken, FileNotFoundError) as error:
            store.execute(
                HoldWork(
                    reason=f"the backup {effect.backup} cannot be restored: {error}",
                    advice="repair it, or choose another one (`keepstep backup list`, `keepstep versions list --all`); "
                    "then `keepstep resume`",
                )
            )
            return
    failpoint("brought_back")
    store.execute(RecordRestored())
