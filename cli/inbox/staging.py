"""The arriving directories in `data/.arriving/`.

The name of a directory has the priority of its files, and `again` if bytes that were accepted before are trained again.
One process locks a directory; the kernel releases the lock when that process ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cli.home.paths import Home
from cli.inbox.ownership import safe_name
from events.values import PRIORITIES, Priority
from gpu.artifacts.manifest import describe_open
from journal import durable
from journal.storage import Storage

AGAIN = "again"
"""The part of a directory's name for bytes that are trained again."""


def arriving_directory(home: Home) -> Path:
    """The parent of the arriving directories; it does not exist before the first file arrives."""
    return home.data / ".arriving"


@contextmanager
def new_directory(home: Home, priority: Priority, *, again: bool = False) -> Iterator[Path]:
    """A durable, empty directory that this process locks during the block. Removed afterwards if it is empty.

    After an error it stays until `finish_arrivals`, unless the error came inside `removed_on_error`.

    Raises OSError.
    """
    arriving, storage = arriving_directory(home), home.storage
    if not home.arriving_is_durable or not storage.exists(
        arriving
    ):  # once per process: a sync costs more than all the rest
        durable.make_directory(arriving, storage=storage)
        home.arriving_is_durable = True
    kind = f"{priority}-{AGAIN}" if again else priority
    while True:
        directory = arriving / f"{kind}-{storage.random_name()}{storage.random_name()}"
        storage.mkdir(directory)
        durable.fsync_directory(arriving, storage=storage)
        with locked(storage, directory) as ours:
            if ours:  # else a starting process removes the empty directory
                yield directory
                return


@contextmanager
def locked(storage: Storage, directory: Path) -> Iterator[bool]:
    """Lock `directory`. Yields False if another process has the lock. Raises OSError."""
    with durable.opened(storage, directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        if not storage.try_lock(fd):
            yield False
            return
        yield True
        # Not after an error: renames out of it may not be durable, and after a power cut a file would have neither
        # name. `finish_arrivals` syncs the new places first.
        _remove_if_empty(storage, directory)


@contextmanager
def removed_on_error(storage: Storage, directory: Path) -> Iterator[None]:
    """Remove the directory if it is empty after an error of the block. No file may leave it in the block."""
    try:
        yield
    except Exception:
        _remove_if_empty(storage, directory)
        raise


def group_files(files: Iterable[tuple[Path, Priority]]) -> Iterator[tuple[Priority, list[Path]]]:
    """Group files that can share a directory, in order: the same priority, and no two with the same name."""
    batch: list[Path] = []
    of: Priority = "normal"
    names: set[str] = set()
    for path, priority in files:
        own = {path.name, safe_name(path.name)}  # a move keeps the first, a copy gets the second
        if batch and (priority != of or names & own):
            yield of, batch
            batch, names = [], set()
        of = priority
        batch.append(path)
        names |= own
    if batch:
        yield of, batch


def is_retraining(directory: Path) -> bool:
    """True if bytes that were accepted before are trained again."""
    return directory.name.split("-")[1:2] == [AGAIN]


def priority_of(directory: Path) -> Priority:
    """The priority of the files in it."""
    word = directory.name.partition("-")[0]
    for priority in PRIORITIES:
        if priority == word:
            return priority
    return "normal"


def _remove_if_empty(storage: Storage, directory: Path) -> None:
    with suppress(OSError):  # not empty: the next start finishes its files
        storage.rmdir(directory)


def stable_sha256(path: Path, *, storage: Storage) -> str:
    """The SHA-256 of a file as it is on disk, if it did not change during the read; else reads again. Raises OSError.

    Drops the page cache first: after a failed fsync, the cache has bytes that the disk never got.
    """
    while True:
        with durable.opened(storage, path, os.O_RDONLY) as fd:
            before = storage.fstat(fd)
            storage.fsync(fd)
            storage.drop_cache(fd)
            digest = describe_open(fd, storage=storage).sha256
            after = storage.fstat(fd)
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            return digest
