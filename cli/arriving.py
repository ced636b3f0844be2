"""The directories in `data/.arriving/` through which files arrive.

The name of a directory says the priority of what is in it, and whether bytes that were accepted before are to be
trained once more. One process holds a directory; the kernel releases it when that process ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cli.home import Home
from cli.ownership import safe_name
from events.values import PRIORITIES, Priority
from gpu.manifest import describe_open
from journal import durable
from journal.storage import Storage

AGAIN = "again"
"""In the name of a directory: bytes that were accepted before are to be trained once more."""


def arriving_of(home: Home) -> Path:
    """Where the directories of a home are; absent until the first file arrives."""
    return home.data / ".arriving"


@contextmanager
def new_directory(home: Home, priority: Priority, *, again: bool = False) -> Iterator[Path]:
    """A durable, empty directory that this process holds while the block runs. Removed after it if it is empty then.
    After an error it stays until `finish_arrivals`, unless the error came while it was filled (`filling`).

    Raises OSError.
    """
    arriving, storage = arriving_of(home), home.storage
    if not home.arriving_is_durable or not storage.exists(arriving):  # once a process: a sync is what a file costs
        durable.make_directory(arriving, storage=storage)
        home.arriving_is_durable = True
    kind = f"{priority}-{AGAIN}" if again else priority
    while True:
        directory = arriving / f"{kind}-{storage.random_name()}{storage.random_name()}"
        storage.mkdir(directory)
        durable.fsync_directory(arriving, storage=storage)
        with held(storage, directory) as ours:
            if ours:  # else a process that starts just now was quicker, and removes what it finds empty
                yield directory
                return


@contextmanager
def held(storage: Storage, directory: Path) -> Iterator[bool]:
    """Whether this process holds `directory`; if not, another living process works there. Raises OSError."""
    with durable.opened(storage, directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        if not storage.try_lock(fd):
            yield False
            return
        yield True
        # Not after an error: the files may have left it by renames that are not on disk, and a power cut would then
        # bring back neither name. `finish_arrivals` syncs their new places, and removes it.
        _remove_if_empty(storage, directory)


@contextmanager
def filling(storage: Storage, directory: Path) -> Iterator[None]:
    """Removes an empty directory after an error of the block, in which no file moves on from it. Raises what it
    raises."""
    try:
        yield
    except Exception:
        _remove_if_empty(storage, directory)
        raise


def batches(files: Iterable[tuple[Path, Priority]]) -> Iterator[tuple[Priority, list[Path]]]:
    """Files that can share a directory, in their order: of one priority, and no name would replace another."""
    batch: list[Path] = []
    of: Priority = "normal"
    names: set[str] = set()
    for path, priority in files:
        own = {path.name, safe_name(path.name)}  # moved under the one, copied under the other
        if batch and (priority != of or names & own):
            yield of, batch
            batch, names = [], set()
        of = priority
        batch.append(path)
        names |= own
    if batch:
        yield of, batch


def is_again(directory: Path) -> bool:
    """Whether bytes that were accepted before are to be trained once more."""
    return directory.name.split("-")[1:2] == [AGAIN]


def priority_of(directory: Path) -> Priority:
    """The priority of the files in it."""
    word = directory.name.partition("-")[0]
    for priority in PRIORITIES:
        if priority == word:
            return priority
    return "normal"


def _remove_if_empty(storage: Storage, directory: Path) -> None:
    with suppress(OSError):  # not empty: what is in it will be taken on at the next start
        storage.rmdir(directory)


def settled_sha256(path: Path, *, storage: Storage) -> str:
    """The hash of a file as it is on disk, and that did not change while it was read. Raises OSError.

    Its writer may still have it open. And an fsync of it may have failed before, its writer's or ours: after that the
    cache shows what the disk never got.
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
