"""Durable file operations: what must be on disk before anybody may rely on it.

For every folder that writes files, not for the journal alone. A file is replaced whole or not at all: written under a
temporary name in the same directory, synced, renamed, and the directory synced, because a rename is only durable when
its directory is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

COPY_CHUNK_BYTES = 1 << 20  # large enough that system calls do not matter, small enough for any machine


class Storage:
    """The file-system port. It exists so that tests can inject faults: fail, shorten, or stop at any single call.

    Every call that the journal's promise hangs on goes through here, and nothing else does; that is why the surface is
    this small, and why no method does more than one thing. All methods raise OSError.
    """

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def read(self, fd: int, length: int, offset: int) -> bytes:
        """At most `length` bytes; fewer only at the end of the file."""
        return os.pread(fd, length, offset)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """How many bytes were taken: possibly not all."""
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def allocate(self, fd: int, length: int) -> None:
        """Gives the file real blocks up to `length`."""
        os.posix_fallocate(fd, 0, length)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def drop_cache(self, fd: int, offset: int = 0) -> None:
        """Makes the next read ask the disk: after a failed fsync, cached pages may show what the disk never got.

        What follows `offset` is wanted soon, so the disk is asked for it at once.
        """
        os.posix_fadvise(fd, offset, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, offset, 0, os.POSIX_FADV_WILLNEED)

    def exists(self, path: Path | str) -> bool:
        return os.access(path, os.F_OK)

    def names(self, directory: Path) -> list[str]:
        return os.listdir(directory)  # noqa: PTH208 - names are all that is asked for

    def mkdir(self, path: Path, mode: int = 0o700) -> None:
        os.mkdir(path, mode)  # noqa: PTH102 - the port speaks the system's own calls

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)  # noqa: PTH104

    def unlink(self, path: Path) -> None:
        os.unlink(path)  # noqa: PTH108


REAL = Storage()


def temporary_path(path: Path) -> Path:
    """A fresh name beside `path`, for what is still being written."""
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file of this name was left by a writer that did not finish."""
    return name.startswith(".") and name.endswith(".tmp")


@contextlib.contextmanager
def opened(storage: Storage, path: Path, flags: int, mode: int = 0o600) -> Iterator[int]:
    """A file descriptor for the time of a block."""
    fd = storage.open(path, flags, mode)
    try:
        yield fd
    finally:
        storage.close(fd)


def write_all(storage: Storage, fd: int, data: bytes) -> None:
    """Writes everything, in as many calls as the system wants."""
    written = storage.write(fd, data)
    if written < len(data):
        rest = memoryview(data)
        while written < len(data):
            written += storage.write(fd, rest[written:])


def fsync_file(path: Path, *, storage: Storage = REAL) -> None:
    """Whatever was written to the file so far is on disk."""
    with opened(storage, path, os.O_RDONLY) as fd:
        storage.fsync(fd)


def fsync_directory(path: Path, *, storage: Storage = REAL) -> None:
    """The names in the directory (renames, new files, deletions) are on disk."""
    with opened(storage, path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        storage.fsync(fd)


def fsync_tree(path: Path, *, storage: Storage = REAL) -> None:
    """Every file and directory at and below `path` is on disk, the deepest first. Does not follow symbolic links."""
    if not path.is_dir():
        fsync_file(path, storage=storage)
        return
    for entry in sorted(path.iterdir()):
        if not entry.is_symlink():
            fsync_tree(entry, storage=storage)
    fsync_directory(path, storage=storage)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644, sync: bool, storage: Storage = REAL) -> None:
    """Puts `data` at `path`, whole or not at all.

    With `sync` it is on disk, name and all, when this returns. Without, a reader still never sees half of it, but a
    power cut may bring the old file back, or leave an empty one: for views that can be made again.
    """
    temporary = temporary_path(path)
    try:
        with opened(storage, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode) as fd:
            write_all(storage, fd, data)
            if sync:
                storage.fsync(fd)
        storage.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            storage.unlink(temporary)
        raise
    if sync:
        fsync_directory(path.parent, storage=storage)


def copy_durably(source: Path, target: Path, *, mode: int = 0o644, storage: Storage = REAL) -> None:
    """Copies a file's content to `target`, whole or not at all, and on disk when this returns."""
    temporary = temporary_path(target)
    try:
        with (
            opened(storage, source, os.O_RDONLY) as reading,
            opened(storage, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode) as writing,
        ):
            offset = 0
            while chunk := storage.read(reading, COPY_CHUNK_BYTES, offset):
                write_all(storage, writing, chunk)
                offset += len(chunk)
            storage.fsync(writing)
        storage.rename(temporary, target)
    except OSError:
        with contextlib.suppress(OSError):
            storage.unlink(temporary)
        raise
    fsync_directory(target.parent, storage=storage)


def rename_durably(source: Path, target: Path, *, storage: Storage = REAL) -> None:
    """Renames a file or a directory, and the rename is on disk when this returns.

    The content is not synced: do that first, or a power cut can leave the new name on old or empty bytes.
    """
    storage.rename(source, target)
    fsync_directory(target.parent, storage=storage)
    if source.parent != target.parent:
        fsync_directory(source.parent, storage=storage)
