"""Durable file operations, for all packages that write files.

A file is replaced as a whole or not at all: it is written under a temporary name in the same directory, synced and
renamed; then the directory is synced, because a rename is durable only when its directory is.
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

NAME_BYTES_MAX = 240  # of 255: the rest is for the parts of a temporary name
FILE_BYTES_MAX = 64 << 20  # of files that are read whole; manifests and views have a few megabytes at most
COPY_CHUNK_BYTES = 1 << 20  # large enough that system calls do not matter, small enough for any machine


def temporary_path(path: Path, *, storage: Storage = REAL) -> Path:
    """Return a new temporary name next to `path`."""
    name = path.name
    while len(os.fsencode(name)) > NAME_BYTES_MAX:
        name = name[1:]
    return path.with_name(f".{name}.{storage.random_name()}.tmp")


def is_temporary(name: str) -> bool:
    """True if a file of this name was left by a writer that did not finish."""
    return name.startswith(".") and name.endswith(".tmp")


@contextlib.contextmanager
def opened(storage: Storage, path: Path, flags: int, mode: int = 0o640) -> Iterator[int]:
    """Open a file for a block. An OSError in the block gets the name of the file."""
    fd = storage.open(path, flags, mode)
    try:
        yield fd
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise
    finally:
        storage.close(fd)


def chunks(storage: Storage, fd: int, size: int = COPY_CHUNK_BYTES) -> Iterator[bytes]:
    """Yield the content of an open file in pieces of `size` bytes."""
    offset = 0
    while chunk := storage.read(fd, size, offset):
        yield chunk
        offset += len(chunk)


def read_file(path: Path, *, bytes_max: int = FILE_BYTES_MAX, storage: Storage = REAL) -> bytes:
    """Return the content of a file. Raises OSError, also if it has more than `bytes_max` bytes."""
    with opened(storage, path, os.O_RDONLY) as fd:
        size_bytes = storage.size(fd)
        if size_bytes > bytes_max:
            raise OSError(errno.EFBIG, f"it has {size_bytes:,} bytes, and should have {bytes_max:,} at most")
        size = max(COPY_CHUNK_BYTES, size_bytes + 1)  # one piece, so that nothing is joined
        return b"".join(chunks(storage, fd, size))


def open_to_read(path: Path, *, storage: Storage = REAL) -> BufferedReader:
    """Open a regular file for reading; the caller closes it. Raises OSError; NotAFile for anything else."""
    return os.fdopen(storage.open(path, os.O_RDONLY), "rb")


def write_all(storage: Storage, fd: int, data: bytes) -> None:
    """Write all of `data`, in as many calls as needed. Raises OSError."""
    written = storage.write(fd, data)
    if written < len(data):
        rest = memoryview(data)
        while written < len(data):
            written += storage.write(fd, rest[written:])


def fsync_file(path: Path, *, storage: Storage = REAL) -> None:
    """Sync the content of a file to the disk."""
    with opened(storage, path, os.O_RDONLY) as fd:
        storage.fsync(fd)


def fsync_directory(path: Path, *, storage: Storage = REAL) -> None:
    """Sync the names in a directory (renames, new files, deletions) to the disk."""
    with opened(storage, path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        storage.fsync(fd)


def is_directory(path: Path, *, storage: Storage = REAL) -> bool:
    """True if `path` is a directory and not a link to one."""
    try:
        return stat.S_ISDIR(storage.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def fsync_tree(path: Path, *, storage: Storage = REAL) -> None:
    """Sync every file and directory at and below `path`, the deepest first. Does not follow symbolic links."""
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
    """Create a directory and its missing parents, and sync their names.

    An existing directory is synced too: its creator may have been killed before that.
    """
    if not storage.exists(path.parent):
        make_directory(path.parent, storage=storage)
    with contextlib.suppress(FileExistsError):
        storage.mkdir(path)
    fsync_directory(path.parent, storage=storage)


def move_aside(path: Path, *, storage: Storage = REAL) -> Path:
    """Rename what is at `path`, and should not be, to a name next to it. Return that name."""
    aside = path.with_name(f"{path.name}.aside-{storage.random_name()}")
    storage.rename(path, aside)
    return aside


def claim_directory(path: Path, *, storage: Storage = REAL) -> None:
    """Create a directory for views or caches. A file in its place, or in that of its parent, is moved aside."""
    for place in (path.parent, path):
        with contextlib.suppress(FileNotFoundError):
            mode = storage.stat(place).st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISLNK(mode):
                move_aside(place, storage=storage)
    make_directory(path, storage=storage)


def remove_tree(path: Path, *, storage: Storage = REAL) -> int:
    """Delete a file, or a directory with its content. Return the bytes of the files. Does not follow links.

    Not durable: what reappears after a power cut must be deleted again.
    """
    found = storage.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        storage.unlink(path)
        return found.st_size
    size_bytes = sum(remove_tree(path / name, storage=storage) for name in sorted(storage.names(path)))
    storage.rmdir(path)
    return size_bytes


def write_atomically(path: Path, data: bytes, *, mode: int = 0o640, sync: bool, storage: Storage = REAL) -> None:
    """Replace the file at `path` by `data`, as a whole or not at all.

    With `sync`, content and name are on disk when this returns. Without it, a reader still never sees a part, but a
    power cut may leave the old file or an empty one: for views that can be rebuilt. A directory in the place of a view
    is moved aside.
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
    """Copy a file to `target`, as a whole or not at all. The copy is on disk when this returns."""
    with opened(storage, source, os.O_RDONLY) as fd:
        copy_open(fd, target, mode=mode, storage=storage)


def copy_open(fd: int, target: Path, *, mode: int = 0o640, storage: Storage = REAL) -> None:
    """Copy an open file as `copy_durably`; the copy has at most the permissions of the file."""
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
    """Rename a file. Return False, and change nothing, if the two are on different file systems.

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
    """Rename a file or a directory. The rename is on disk when this returns.

    The content is not synced: do that before, or a power cut can leave old or empty bytes under the new name.
    """
    storage.rename(source, target)
    fsync_directory(target.parent, storage=storage)
    if source.parent != target.parent:
        fsync_directory(source.parent, storage=storage)
