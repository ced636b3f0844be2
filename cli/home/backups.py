"""Backups as the home has them: made by a person, brought back into their place, looked at, given up."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.identity import is_locked
from cli.home.paths import Home
from core.commands import HoldWork, RecordBackup, RecordRestored
from core.effects import RestoreCheckpoint
from core.errors import Refused
from core.state import State
from core.values import DetachedCheckpoint
from gpu.artifacts.artifact import CheckpointDirectory, find_problem
from gpu.artifacts.backup import BackupManifest, back_up
from gpu.errors import CheckpointBroken, StorageFailed
from journal import durable
from journal.failpoints import failpoint
from journal.lock import MODE

SPARE = 3
"""Times the size of a checkpoint: after its copy there is still room for the next one, and for the one after it."""


@contextmanager
def making_one(home: Home) -> Iterator[None]:
    """Hold the lock of whoever writes into `backups/`, so that a daemon does not sweep what has no name yet.

    Raises UserError if somebody else holds it.
    """
    fd = home.storage.open(home.backup_lock, os.O_RDWR | os.O_CREAT, MODE)
    try:
        with suppress(OSError):  # of an earlier keepstep everybody could open it, and so lock it; not ours: as it is
            home.storage.set_mode(fd, MODE)
        if not home.storage.try_lock(fd):
            raise UserError("another backup is being made", "try again when it is done")
        yield
    finally:
        home.storage.close(fd)


def is_being_made(home: Home) -> bool:
    """Whether a command writes into `backups/` now."""
    return is_locked(home, home.backup_lock)


def make_backup(store: EventStore, *, kind: str, reason: str) -> str:
    """Copy the head, read the copy back, journal it; its name. Raises UserError, gpu.errors.StorageFailed."""
    home = store.home
    durable.make_directory(home.backups, storage=home.storage)
    durable.make_directory(home.run, storage=home.storage)
    with making_one(home):
        with store.exclusive():  # only now: another backup may have got its name while this one was on its way here
            state = store.state
        held = _held(state)
        name = f"{kind}-{state.retention.backups_made + 1:04d}"
        if home.storage.exists(home.backups / name):  # of one that was killed before it was journaled
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
                f"no backup was made: {error}", "`keepstep checkpoints verify` says which are good; then try again"
            ) from error
        store.execute(
            RecordBackup(
                backup=name, reason=reason, held=held, size_bytes=made.size_bytes, manifest_sha256=made.manifest_sha256
            )
        )
    return name


def make_emergency_backup(store: EventStore, say: Callable[[str], None]) -> None:
    """Behind a quarantine, copy what is left: a disk that spoils one checkpoint may spoil the next.

    Never in the way of anything: if it cannot be made, that is said.
    """
    home, head = store.home, store.state.head.checkpoint
    if head is None:
        return
    try:
        if home.storage.free_bytes(home.root) < SPARE * head.size_bytes:
            say(f"no backup of {head.id} was made: it would leave too little room")
            return
        name = make_backup(store, kind="emergency", reason="another checkpoint was found to be bad")
    except (UserError, StorageFailed, Refused) as error:
        say(f"no backup of {head.id} was made: {error}")
        return
    say(f"backed up {head.id} as {name}, for another checkpoint was bad")


def _held(state: State) -> DetachedCheckpoint:
    if state.head.checkpoint is None or state.head.weight_settings is None:
        base = f"since {state.head.base}, which stands in versions/" if state.head.base else "yet"
        raise UserError(f"nothing was learned {base}", "there is nothing to back up")
    return DetachedCheckpoint(
        base=state.head.base, checkpoint=state.head.checkpoint, weight_settings=state.head.weight_settings
    )


def restore_backup(store: EventStore, effect: RestoreCheckpoint) -> None:
    """Put the head into its place again, if it is not there whole. Raises OSError."""
    home, head = store.home, store.state.head.checkpoint
    assert head is not None  # it is to be brought back
    place = home.checkpoints / effect.checkpoint
    checkpoint = CheckpointDirectory(place, home.storage)
    if find_problem(checkpoint, head.manifest_sha256, every_byte=True) is not None:
        try:
            if home.storage.exists(place):
                durable.remove_tree(place, storage=home.storage)
            checkpoint.restore(home.backups / effect.backup / effect.checkpoint, head.manifest_sha256)
        except StorageFailed as error:
            # to the daemon it is a disk that is full, or fails, as any other
            raise OSError(error.errno or errno.EIO, str(error), str(place)) from error
        except (CheckpointBroken, FileNotFoundError) as error:
            store.execute(
                HoldWork(
                    reason=f"the backup {effect.backup} cannot be brought back: {error}",
                    advice="put it back as it was, or go on from another one (`keepstep backup list`, "
                    "`keepstep versions list --all`); then `keepstep resume`",
                )
            )
            return
    failpoint("brought_back")
    store.execute(RecordRestored())
