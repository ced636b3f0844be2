"""Quarantine damaged checkpoints, and delete leftover files: those on disk that no journal record names.

Only names that keepstep gives are touched. Everything else in its directories belongs to the user.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from cli.errors import STORAGE_FAILED, UserError
from cli.home.backups import backup_is_running
from cli.home.event_store import EventStore
from cli.home.paths import Home
from core.commands import HoldWork, QuarantineCheckpoint, RecordLeftoverDeleted
from core.errors import Refused
from core.state import State
from events import kinds
from events.kinds import AnyEvent
from events.values import is_backup_id, is_checkpoint_id, is_results_file, is_version_id
from gpu.artifacts.artifact import CheckpointDirectory, find_problem
from gpu.artifacts.commit import STAGING
from gpu.artifacts.version_manifest import VersionDirectory
from gpu.data.plan.cache_names import cache_directories, job_of
from journal import durable
from journal.failpoints import failpoint
from journal.storage import Storage

DELETING = ".deleting-"
"""A directory is renamed before it is deleted, so that half a checkpoint never has the name of a checkpoint."""

UNFINISHED = (STAGING, DELETING, ".condemned-")
"""Prefixes of directories that are half written or half deleted. Earlier versions deleted under the last one."""

EVERY_BYTE_AT_START_BYTES = 8 << 30
"""Checkpoints of up to this size in total are read completely at a start, in well under a minute. Of larger ones only
names and sizes are checked then; every byte of a checkpoint is always checked before it is used."""


def quarantine_damaged(store: EventStore) -> Iterator[AnyEvent]:
    """Journal the quarantine of each checkpoint that differs from what was committed; yield what was journaled.

    The oldest is checked first, so that the head never falls back to a checkpoint that is found damaged later. Raises
    UserError if all checkpoints are missing: then the disk is missing, and no checkpoint may be quarantined.
    """
    home, checkpoints = store.home, store.state.head.checkpoints
    if store.state.head.pending_restore is not None:
        return  # the head is restored first
    if len(checkpoints) > 1 and not any(home.storage.exists(home.checkpoints / each.id) for each in checkpoints):
        raise UserError(
            f"none of the {len(checkpoints)} committed checkpoints is in {home.checkpoints}; nothing was changed",
            f"put them back (is their disk mounted?). If they are lost, make an empty directory {checkpoints[-1].id} "
            "there: keepstep then continues from what is left",
            STORAGE_FAILED,
        )
    every_byte = sum(checkpoint.size_bytes for checkpoint in checkpoints) <= EVERY_BYTE_AT_START_BYTES
    for checkpoint in checkpoints:
        artifact = CheckpointDirectory(home.checkpoints / checkpoint.id, home.storage)
        problem = find_problem(artifact, checkpoint.manifest_sha256, every_byte=every_byte)
        if problem is not None:
            with suppress(Refused):  # another process deleted it or moved the head meanwhile
                yield from store.execute(QuarantineCheckpoint(checkpoint=checkpoint.id, problem=problem))
    yield from _hold_if_base_is_damaged(store)


def _hold_if_base_is_damaged(store: EventStore) -> Sequence[AnyEvent]:
    """Hold all work if the base is not the version that was published, by the names and sizes of its files."""
    home, version = store.home, store.state.retention.version(store.state.head.base)
    if version is None:
        return ()
    artifact = VersionDirectory(home.versions / version.id, home.storage)
    problem = find_problem(artifact, version.manifest_sha256, every_byte=False)
    if problem is None:
        return ()
    advice = (
        f"restore the original versions/{version.id}, or continue from another version (`keepstep versions rollback`) "
        "or from the backup that was made before it (`keepstep backup list`); then `keepstep resume`"
    )
    return store.execute(HoldWork(reason=f"{version.id} is not what was published: {problem}", advice=advice))


def sweep(store: EventStore, delete: Callable[[Path], int | None] | None = None) -> list[str]:
    """Delete leftover directories in `checkpoints/`, `versions/` and `backups/` and the tokens of finished jobs. Move
    quarantined checkpoints to `quarantine/`; return their names.

    After a repair of the journal, unnamed directories are moved too: the lost records may have named them. No worker
    may run: a directory that it has just written has no record yet. `delete` deletes a directory and returns the bytes
    freed, or None if it failed.
    """
    delete = delete or partial(discard, store.home)
    moved: list[str] = []
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
        # List first, then ask for the names: a directory that a command writes later is not in the list, and one that
        # it wrote before is journaled, or its backup is still being made.
        if place == home.backups and backup_is_running(home):
            continue
        with store.exclusive():
            named = _named(store.state)
        moved += _sweep_place(store, place, paths, is_ours, named, delete)
    if not store.state.home.repaired:  # the lost records may have named results
        _sweep_results(store)
    return moved


def _sweep_results(store: EventStore) -> None:
    """Delete results of evaluations that no record names, or that newer ones have replaced."""
    home, storage = store.home, store.home.storage
    names = [name for name in storage.names(home.evaluations) if is_results_file(name) or durable.is_temporary(name)]
    with store.exclusive():
        evaluations = store.state.evaluations
    results = [*(each.results for each in evaluations.evaluated), *evaluations.jobs]
    kept = {f"{each.id}.json" for each in results}
    for name in sorted({*names} - kept):
        storage.unlink(home.evaluations / name)


def _named(state: State) -> set[str]:
    """The names of all directories that the journal has. Names of checkpoints, versions and backups never collide."""
    checkpoints = (*state.head.checkpoints, *(left.checkpoint for left in state.head.detached))
    names = {each.id for each in checkpoints} | {each.id for each in state.retention.versions}
    return names | {each.id for each in state.retention.backups}


def _sweep_place(
    store: EventStore,
    place: Path,
    paths: Sequence[Path],
    is_ours: Callable[[str], bool],
    named: Collection[str],
    delete: Callable[[Path], int | None],
) -> list[str]:
    home, storage, state = store.home, store.home.storage, store.state
    moved = []
    for path in paths:
        name = path.name
        unnamed = is_ours(name) and name not in named
        if (name in state.recovery.quarantined and place == home.checkpoints) or (unnamed and state.home.repaired):
            durable.rename_durably(path, _free(home.quarantine / name, storage), storage=storage)
            moved.append(name)
        elif name.startswith(STAGING):
            if (size_bytes := delete(path)) is not None:
                store.execute(RecordLeftoverDeleted(path=home.relative(path), size_bytes=size_bytes))
        elif unnamed or name.startswith(UNFINISHED):
            delete(path)
    return moved


def deleted_directory(home: Home, event: AnyEvent) -> Path | None:
    """The directory that this event deletes; None: it deletes none."""
    match event:
        case kinds.CheckpointPruned():
            return home.checkpoints / event.checkpoint
        case kinds.VersionDeleted():
            return home.versions / event.version
        case kinds.BackupDeleted():
            return home.backups / event.backup
    return None


def deleted_directories(home: Home, state: State, event: AnyEvent) -> list[Path]:
    """The directories to delete after this event, including the tokens of jobs that are finished."""
    if isinstance(event, kinds.JobTrained | kinds.JobRejected | kinds.JobFailed | kinds.JobSkipped):
        return _finished_tokens(home, state)
    directory = deleted_directory(home, event)
    return [] if directory is None else [directory]


def _finished_tokens(home: Home, state: State) -> list[Path]:
    """The token cache_directories of jobs that are not in progress."""
    in_progress = {job.id for job in state.training.in_progress}
    kept = [(path, job_of(path)) for path in cache_directories(home.tokens, storage=home.storage)]
    return [path for path, job in kept if job is not None and job not in in_progress]


def _sweep_tokens(home: Home, state: State, delete: Callable[[Path], int | None]) -> None:
    """Delete token caches of finished jobs, and those that are half written or half deleted. keepstep
    makes them again when it needs them."""
    unfinished = [path for path in _directories(home.tokens, home.storage) if path.name.startswith(UNFINISHED)]
    for path in (*_finished_tokens(home, state), *unfinished):
        delete(path)


def _sweep_rehearsals(home: Home) -> None:
    """Delete the files of rehearsals whose process has ended. `keepstep doctor` may be running another one."""
    for path in _directories(home.rehearsal, home.storage):
        if path.name.isdecimal() and not psutil.pid_exists(int(path.name)):
            durable.remove_tree(path, storage=home.storage)


def discard(home: Home, directory: Path) -> int:
    """Delete a directory that no record names; return the bytes freed, 0 if it does not exist. Raises OSError."""
    renamed = directory
    if not directory.name.startswith(UNFINISHED):  # such a name already says that the content is incomplete
        renamed = directory.with_name(DELETING + directory.name)
        with suppress(FileNotFoundError):
            durable.remove_tree(renamed, storage=home.storage)  # an earlier deletion was interrupted
        with suppress(FileNotFoundError):
            durable.rename_durably(directory, renamed, storage=home.storage)
        failpoint("pruned")
    with suppress(FileNotFoundError):
        return durable.remove_tree(renamed, storage=home.storage)
    return 0


def sweep_temporaries(home: Home) -> None:
    """Delete views, reports and cache_directories that are half written, and the sockets of earlier workers.

    Only the daemon may call this, before it starts a worker. The caller holds the append lock, under which commands
    write the status.
    """
    for directory in (home.status.parent, home.rejected):
        for name in home.storage.names(directory):
            if durable.is_temporary(name):
                home.storage.unlink(directory / name)
    for name in home.storage.names(home.root):
        # from an `init` that a power cut ended; the file system may have restored what the next `init` deleted
        if durable.is_temporary(name) and name.startswith((f".{home.journal.name}.", f".{home.config.name}.")):
            durable.remove_tree(home.root / name, storage=home.storage)
    for name in home.storage.names(home.run):
        unfinished = durable.is_temporary(name) and name.startswith(f".{home.usual.name}.")
        staged = name.removeprefix(".").startswith("self-correction-")  # it is made again if it is not in the queue
        if unfinished or staged or (name.startswith("worker-") and name.endswith(".sock")):
            home.storage.unlink(home.run / name)


def _directories(parent: Path, storage: Storage) -> Iterator[Path]:
    for name in sorted(storage.names(parent)):
        if durable.is_directory(parent / name, storage=storage):
            yield parent / name


def _free(path: Path, storage: Storage) -> Path:
    """`path`, or the next name that is free."""
    free, count = path, 1
    while storage.exists(free):
        count += 1
        free = path.with_name(f"{path.name}.{count}")
    return free
