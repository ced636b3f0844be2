"""Durable file operations: what must be on disk before anybody may rely on it.

For every folder that writes files, not for the journal alone. A file is replaced whole or not at all: written under a
temporary name in the same directory, synced, renamed, and the directory synced, because a rename is only durable when
its directory is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from journal.storage import REAL, Storage

LONGEST_NAME_BYTES = 240  # of 255, so that there is room for what makes it temporary
LONGEST_FILE_BYTES = 64 << 20  # of what is read whole; manifests and views have some megabytes at most
COPY_CHUNK_BYTES = 1 << 20  # large enough that system calls do not matter, small enough for any machine


def temporary_path(path: Path, *, storage: Storage = REAL) -> Path:
    """A fresh name next to `path`, for what is still being written."""
    name = path.name
    while len(os.fsencode(name)) > LONGEST_NAME_BYTES:
        name = name[1:]
    return path.with_name(f".{name}.{storage.random_name()}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file of this name was left by a writer that did not finish."""
    return name.startswith(".") and name.endswith(".tmp")


@contextlib.contextmanager
def opened(storage: Storage, path: Path, flags: int, mode: int = 0o640) -> Iterator[int]:
    """A file descriptor for the time of a block. What fails with it fails under the name of the file."""
    fd = storage.open(path, flags, mode)
    try:
        yield fd
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise
    finally:
        storage.close(fd)


def chunks(storage: Storage, fd: int, size: int = COPY_CHUNK_BYTES) -> Iterator[bytes]:
    """The content of an open file, piece by piece."""
    offset = 0
    while chunk := storage.read(fd, size, offset):
        yield chunk
        offset += len(chunk)


def read_file(path: Path, *, most_bytes: int = LONGEST_FILE_BYTES, storage: Storage = REAL) -> bytes:
    """The whole content of a file. Raises OSError, also if there are more than `most_bytes`: none of ours has."""
    with opened(storage, path, os.O_RDONLY) as fd:
        size_bytes = storage.size(fd)
        if size_bytes > most_bytes:
            raise OSError(errno.EFBIG, f"it has {size_bytes:,} bytes, and should have {most_bytes:,} at most")
        size = max(COPY_CHUNK_BYTES, size_bytes + 1)  # in one piece, that nothing has to be put together
        return b"".join(chunks(storage, fd, size))


def open_to_read(path: Path, *, storage: Storage = REAL) -> BufferedReader:
    """A regular file, open for reading; whoever asks closes it. Raises OSError, NotAFile of it for anything else."""
    return os.fdopen(storage.open(path, os.O_RDONLY), "rb")


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


def is_directory(path: Path, *, storage: Storage = REAL) -> bool:
    """Whether there is a directory of this name, and not a link to one."""
    try:
        return stat.S_ISDIR(storage.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def fsync_tree(path: Path, *, storage: Storage = REAL) -> None:
    """Every file and directory at and below `path` is on disk, the deepest first. Does not follow symbolic links."""
    mode = storage.stat(path).st_mode
    if stat.S_ISLNK(mode):
        return
    if not stat.S_ISDIR(mode):
        fsync_file(path, storage=storage)
        return
    for name in sorted(storage.names(path)):
        fsync_tree(path / name, storage=storage)
    fsync_directory(path, storage=storage)


def make_directory(path: Path, *, storage: Storage = REAL) -> None:
    """The directory is there, and its name is on disk, with everything above it that had to be made.

    Synced also if it was there: who made it may have been killed before that.
    """
    if not storage.exists(path.parent):
        make_directory(path.parent, storage=storage)
    with contextlib.suppress(FileExistsError):
        storage.mkdir(path)
    fsync_directory(path.parent, storage=storage)


def move_aside(path: Path, *, storage: Storage = REAL) -> Path:
    """Gives what stands at `path`, and should not, another name next to it; that name. Nothing of it is lost."""
    aside = path.with_name(f"{path.name}.aside-{storage.random_name()}")
    storage.rename(path, aside)
    return aside


def claim_directory(path: Path, *, storage: Storage = REAL) -> None:
    """As `make_directory`, for a view or a cache: whatever else stands in its place, or above it, is moved aside."""
    for place in (path.parent, path):
        with contextlib.suppress(FileNotFoundError):
            mode = storage.stat(place).st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISLNK(mode):
                move_aside(place, storage=storage)
    make_directory(path, storage=storage)


def remove_tree(path: Path, *, storage: Storage = REAL) -> int:
    """Deletes a file, or a directory with all that is in it; how many bytes the files had. Follows no link.

    Not durable, and it need not be where what comes back after a power cut is deleted again.
    """
    found = storage.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        storage.unlink(path)
        return found.st_size
    size_bytes = sum(remove_tree(path / name, storage=storage) for name in sorted(storage.names(path)))
    storage.rmdir(path)
    return size_bytes


def write_atomically(path: Path, data: bytes, *, mode: int = 0o640, sync: bool, storage: Storage = REAL) -> None:
    """Puts `data` at `path`, whole or not at all.

    With `sync` it is on disk, name and all, when this returns. Without, a reader still never sees half of it, but a
    power cut may bring the old file back, or leave an empty one: for views that can be made again. So a directory that
    stands in the place of a view is moved aside.
    """
    temporary = temporary_path(path, storage=storage)
    try:
        with opened(storage, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode) as fd:
            write_all(storage, fd, data)
            if sync:
                storage.fsync(fd)
        try:
            storage.rename(temporary, path)
        except IsADirectoryError:
            if sync:
                raise
            move_aside(path, storage=storage)
            storage.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            storage.unlink(temporary)
        raise
    if sync:
        fsync_directory(path.parent, storage=storage)


def copy_durably(source: Path, target: Path, *, mode: int = 0o640, storage: Storage = REAL) -> None:
    """Copies a file's content to `target`, whole or not at all, and on disk when this returns."""
    with opened(storage, source, os.O_RDONLY) as fd:
        copy_open(fd, target, mode=mode, storage=storage)


def copy_open(fd: int, target: Path, *, mode: int = 0o640, storage: Storage = REAL) -> None:
    """As `copy_durably`, of an open file; the copy is no wider than the file is."""
    temporary = temporary_path(target, storage=storage)
    mode &= storage.fstat(fd).st_mode | stat.S_IRUSR | stat.S_IWUSR
    try:
        with opened(storage, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode) as writing:
            for chunk in chunks(storage, fd):
                write_all(storage, writing, chunk)
            storage.fsync(writing)
        storage.rename(temporary, target)
    except OSError:
        with contextlib.suppress(OSError):
            storage.unlink(temporary)
        raise
    fsync_directory(target.parent, storage=storage)


def rename_if_same_disk(source: Path, target: Path, *, storage: Storage = REAL) -> bool:
    """Renames a file; False, and nothing done, if the two are on different file systems.

    Not durable: sync the directory of `target`, and after it that of `source`.
    """
    try:
        storage.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def rename_durably(source: Path, target: Path, *, storage: Storage = REAL) -> None:
    """Renames a file or a directory, and the rename is on disk when this returns.

    The content is not synced: do that first, or a power cut can leave the new name on old or empty bytes.
    """
    storage.rename(source, target)
    fsync_directory(target.parent, storage=storage)
    if source.parent != target.parent:
        fsync_directory(source.parent, storage=storage)
