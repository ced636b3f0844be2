"""Debris: what stands on disk and is named by no record.

Only names that keepstep itself gives are touched; whatever else lies in its directories belongs to somebody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from cli.errors import STORAGE_FAILED, UserError
from cli.home.backups import is_being_made
from cli.home.event_store import EventStore
from cli.home.paths import Home
from core.commands import HoldWork, QuarantineCheckpoint, RecordSwept
from core.errors import Refused
from core.state import State
from events import kinds, versions
from events.kinds import AnyEvent
from events.values import is_backup_id, is_checkpoint_id, is_version_id
from gpu.artifacts import version_manifest
from gpu.artifacts.commit import STAGING
from gpu.artifacts.manifest import problem_of
from gpu.data.plan.cache_names import cache_directories, job_of
from journal import durable
from journal.failpoints import failpoint
from journal.storage import Storage

CONDEMNED = ".condemned-"
"""What is being deleted is renamed first, so that half of a checkpoint never goes by its name."""

EVERY_BYTE_AT_START_BYTES = 8 << 30
"""Checkpoints that are no larger together are read whole at a start, in well under a minute. Of larger ones, names and
sizes are checked then; every byte of a checkpoint is always checked before it is used."""


def condemn_damaged(store: EventStore) -> Iterator[AnyEvent]:
    """Journal of every checkpoint that is not what was committed that it is set aside; what was journaled.

    The oldest first: then no checkpoint that is left has to be fallen back from to one that is gone. Raises UserError
    if all of them are missing at once: then it is a disk that is missing, and nothing is to be given up for that.
    """
    home, checkpoints = store.home, store.state.checkpoints
    if store.state.fetch is not None:
        return  # it is brought back first
    if len(checkpoints) > 1 and not any(home.storage.exists(home.checkpoints / each.id) for each in checkpoints):
        raise UserError(
            f"none of the {len(checkpoints)} committed checkpoints is in {home.checkpoints}; nothing was changed",
            "bring them back (is their disk mounted?). If they are gone for good, say so with an empty directory "
            f"{checkpoints[-1].id} in there: keepstep then goes on from what is left",
            STORAGE_FAILED,
        )
    every_byte = sum(checkpoint.size_bytes for checkpoint in checkpoints) <= EVERY_BYTE_AT_START_BYTES
    for checkpoint in checkpoints:
        problem = problem_of(
            home.checkpoints / checkpoint.id,
            checkpoint.manifest_sha256,
            every_byte=every_byte,
            storage=home.storage,
        )
        if problem is not None:
            with suppress(Refused):  # somebody gave it up, or moved the head away from it, meanwhile
                yield from store.execute(QuarantineCheckpoint(checkpoint=checkpoint.id, problem=problem))
    yield from _hold_beside_a_damaged_base(store)


def _hold_beside_a_damaged_base(store: EventStore) -> Sequence[AnyEvent]:
    """Nothing is learned beside a version that is not what was published; by names and sizes, as at every start."""
    home, version = store.home, store.state.version(store.state.base)
    if version is None:
        return ()
    problem = version_manifest.problem_of(
        home.versions / version.id, version.manifest_sha256, every_byte=False, storage=home.storage
    )
    if problem is None:
        return ()
    advice = (
        f"put versions/{version.id} back as it was; or go on from another one (`keepstep versions rollback`), or from "
        "the backup that was made before it (`keepstep backup list`); then `keepstep resume`"
    )
    return store.execute(HoldWork(reason=f"{version.id} is not what was published: {problem}", advice=advice))


def sweep(store: EventStore, delete: Callable[[Path], int | None] | None = None) -> list[str]:
    """Remove what is unfinished or unnamed in `checkpoints/`, `versions/` and `backups/`, and tokens of no file in
    hand, and set quarantined checkpoints aside; what was set aside.

    Behind a repair unnamed ones are set aside too: they may hold what the lost records meant. Only while no worker
    runs: what one has just put in place is unnamed until its word of it is journaled. `delete`: what deletes, and says
    how many bytes that were, or None if it could not.
    """
    delete = delete or partial(discard, store.home)
    set_aside = []
    home = store.home
    if home.storage.exists(home.tokens):
        _sweep_tokens(home, store.state, delete)
    if home.storage.exists(home.rehearsal):
        _sweep_rehearsals(home)
    for place, is_ours in (
        (home.checkpoints, is_checkpoint_id),
        (home.versions, is_version_id),
        (home.backups, is_backup_id),
    ):
        paths = list(_directories(place, home.storage))
        # In this order: what a command puts there from here on is not among these, and what it has put there before, it
        # has journaled, or is still at.
        if place == home.backups and is_being_made(home):
            continue
        with store.exclusive():
            named = _named(store.state)
        set_aside += _swept(store, place, paths, is_ours, named, delete)
    return set_aside


def _named(state: State) -> set[str]:
    """The directories that the journal knows of; no two kinds of them share a name."""
    checkpoints = (*state.checkpoints, *(left.checkpoint for left in state.left))
    names = {each.id for each in checkpoints} | {each.id for each in state.versions}
    return names | {each.id for each in state.backups}


def _swept(  # one place, as it was found
    store: EventStore,
    place: Path,
    paths: Sequence[Path],
    is_ours: Callable[[str], bool],
    named: Collection[str],
    delete: Callable[[Path], int | None],
) -> list[str]:
    home, storage, state = store.home, store.home.storage, store.state
    set_aside = []
    for path in paths:
        name = path.name
        unnamed = is_ours(name) and name not in named
        if (name in state.quarantined and place == home.checkpoints) or (unnamed and state.repaired):
            durable.rename_durably(path, _free(home.quarantine / name, storage), storage=storage)
            set_aside.append(name)
        elif unnamed or name.startswith(CONDEMNED):
            delete(path)
        elif name.startswith(STAGING) and (size_bytes := delete(path)) is not None:
            store.execute(RecordSwept(path=home.relative(path), size_bytes=size_bytes))
    return set_aside


def is_deleted(home: Home, event: AnyEvent) -> Path | None:
    """What is to be deleted after this event."""
    match event:
        case kinds.CheckpointPruned():
            return home.checkpoints / event.checkpoint
        case versions.VersionDeleted():
            return home.versions / event.version
        case versions.BackupDeleted():
            return home.backups / event.backup
    return None


def deleted_directories(home: Home, state: State, event: AnyEvent) -> list[Path]:
    """The same, and what was kept of a file that is not in hand any more."""
    if isinstance(event, kinds.JobTrained | kinds.JobRejected | kinds.JobFailed | kinds.JobSkipped):
        return _abandoned_tokens(home, state)
    directory = is_deleted(home, event)
    return [] if directory is None else [directory]


def _abandoned_tokens(home: Home, state: State) -> list[Path]:
    """What is kept of files that are not in hand any more."""
    in_progress = {job.id for job in state.begun}
    kept = [(path, job_of(path)) for path in cache_directories(home.tokens, storage=home.storage)]
    return [path for path, job in kept if job is not None and job not in in_progress]


def _sweep_tokens(home: Home, state: State, delete: Callable[[Path], int | None]) -> None:
    """The same, and what was not kept or not deleted to the end. No record says anything of it: it is made again."""
    unfinished = [
        path for path in _directories(home.tokens, home.storage) if path.name.startswith((STAGING, CONDEMNED))
    ]
    for path in (*_abandoned_tokens(home, state), *unfinished):
        delete(path)


def _sweep_rehearsals(home: Home) -> None:
    """Remove what rehearsals left whose processes are gone; one that `keepstep doctor` runs is left alone."""
    for path in _directories(home.rehearsal, home.storage):
        if path.name.isdecimal() and not psutil.pid_exists(int(path.name)):
            durable.remove_tree(path, storage=home.storage)


def discard(home: Home, directory: Path) -> int:
    """Delete what no record names (any more); how many bytes that were. Gone already is the same as deleted.

    Raises OSError.
    """
    condemned = directory
    if not directory.name.startswith((CONDEMNED, STAGING)):  # else its name says already that it is nothing
        condemned = directory.with_name(CONDEMNED + directory.name)
        with suppress(FileNotFoundError):
            durable.remove_tree(condemned, storage=home.storage)  # of one that was not deleted to its end
        with suppress(FileNotFoundError):
            durable.rename_durably(directory, condemned, storage=home.storage)
        failpoint("pruned")
    with suppress(FileNotFoundError):
        return durable.remove_tree(condemned, storage=home.storage)
    return 0


def sweep_temporaries(home: Home) -> None:
    """Remove views, reports and caches that were not finished, and the sockets of workers that are gone.

    Only for the daemon, before it starts a worker. A command that writes the status just now does so under the append
    lock, which whoever calls this must hold.
    """
    for directory in (home.status.parent, home.rejected):
        for name in home.storage.names(directory):
            if durable.is_temporary(name):
                home.storage.unlink(directory / name)
    for name in home.storage.names(home.root):
        # of an `init` that a power cut ended, and brought back what the next one had removed
        if durable.is_temporary(name) and name.startswith((f".{home.journal.name}.", f".{home.config.name}.")):
            durable.remove_tree(home.root / name, storage=home.storage)
    for name in home.storage.names(home.run):
        unfinished = durable.is_temporary(name) and name.startswith(f".{home.usual.name}.")
        if unfinished or (name.startswith("worker-") and name.endswith(".sock")):
            home.storage.unlink(home.run / name)


def _directories(parent: Path, storage: Storage) -> Iterator[Path]:
    for name in sorted(storage.names(parent)):
        if durable.is_directory(parent / name, storage=storage):
            yield parent / name


def _free(path: Path, storage: Storage) -> Path:
    """`path`, or the next name beside it that is not taken."""
    free, count = path, 1
    while storage.exists(free):
        count += 1
        free = path.with_name(f"{path.name}.{count}")
    return free
