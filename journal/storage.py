"""The disk as keepstep sees it: every system call that the promise hangs on, one method each.

A port, so that a test can put a disk of its own behind it: one that fails, forgets what was not synced, or stops at
any single call. That is why no method does more than one thing, and why nothing that keepstep must be able to rely on
goes past it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from pathlib import Path

PRIVATE = 0o077
"""Masked out of every mode: what keepstep makes is for its owner alone."""

GROUP_MAY_READ = 0o027
"""The mask in a home that lets its group in."""

DESCRIPTORS = "/proc/self/fd"
"""Where Linux shows the open files of a process under their numbers."""

FEW_FILES = 64
"""A checkpoint is about a dozen files, and what is written while it is made a dozen more."""


class NotAFile(OSError):
    """What stands at `filename` is a link, a pipe, a socket, a device or a directory, and a file was to be opened."""

    def __init__(self, path: Path | str, number: int, what: str) -> None:
        super().__init__(number, f"it is {what}, not a file; move it away, then try again", os.fspath(path))


class Storage:
    """The real one. All methods raise OSError."""

    mask = PRIVATE
    """Bits that no file and no directory gets when it is made, whatever the umask of the process allows."""

    def open(self, path: Path, flags: int, mode: int = 0o640) -> int:
        """Opens a regular file, or with O_DIRECTORY a directory. Raises NotAFile for whatever else has the name.

        The only place that opens a file of ours. A link is not followed: it could name any file of whoever runs this.
        A pipe is not waited for. `mode` is narrowed by `mask`. A path of `path_of` names an open file and no link that
        somebody made.
        """
        as_directory = flags & os.O_DIRECTORY
        follows = as_directory or os.path.dirname(path) == DESCRIPTORS  # noqa: PTH120 - quicker, and any path is text
        careful = os.O_CLOEXEC | os.O_NONBLOCK | (0 if follows else os.O_NOFOLLOW)
        try:
            fd = os.open(path, flags | careful, mode & ~self.mask)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO} and not as_directory:
                what = "a symbolic link" if error.errno == errno.ELOOP else "a pipe, a socket or a device"
                raise NotAFile(path, error.errno, what) from error
            raise
        kind = os.fstat(fd).st_mode
        if stat.S_ISREG(kind) or as_directory:
            return fd
        os.close(fd)
        if stat.S_ISDIR(kind):
            raise NotAFile(path, errno.EISDIR, "a directory")
        raise NotAFile(path, errno.ENXIO, "a pipe, a socket or a device")

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

    def fstat(self, fd: int) -> os.stat_result:
        """Of the open file itself, whatever its name stands for by now."""
        return os.fstat(fd)

    def set_mode(self, fd: int, mode: int) -> None:
        """Gives an open file of ours its permissions, narrowed by `mask`."""
        os.fchmod(fd, mode & ~self.mask)

    def drop_cache(self, fd: int, offset: int = 0) -> None:
        """Makes the next read ask the disk: after a failed fsync, cached pages may show what the disk never got.

        What follows `offset` is wanted soon, so the disk is asked for it at once.
        """
        os.posix_fadvise(fd, offset, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, offset, 0, os.POSIX_FADV_WILLNEED)

    def try_lock(self, fd: int, *, shared: bool = False) -> bool:
        """Whether the file's lock is ours now. The kernel drops it when the holder dies, however it dies."""
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self, fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)

    def exists(self, path: Path | str) -> bool:
        return os.access(path, os.F_OK)

    def lexists(self, path: Path) -> bool:
        """Whether the name stands for anything: also for a link that leads nowhere."""
        return os.path.lexists(path)

    def stat(self, path: Path) -> os.stat_result:
        """Of the name itself: a symbolic link is not followed."""
        return os.lstat(path)

    def is_open_for_writing(self, path: Path) -> bool:
        """Whether some process may still write to the file. False where the system cannot tell: links, network shares,
        files of other people."""
        try:
            fd = self.open(path, os.O_RDONLY)
        except OSError:  # whoever reads it will be told
            return False
        try:
            # A lease for reading is given only where nobody has the file open for writing. Who opens it in the instant
            # of ours has the kernel tell us; by the signal that is ignored unless somebody asks for it.
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            return error.errno == errno.EAGAIN
        finally:
            self.close(fd)
        return False

    def why_unreadable(self, path: Path) -> str | None:
        """Why this process may not read the file, as the system says it; None if it may, or if the file is gone."""
        try:
            self.close(self.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
        except PermissionError as error:
            return error.strerror
        except OSError:  # whoever reads it will be told
            return None
        return None

    def names(self, directory: Path) -> list[str]:
        """In no order."""
        return os.listdir(directory)  # noqa: PTH208 - names are all that is asked for

    def mkdir(self, path: Path, mode: int = 0o750) -> None:
        os.mkdir(path, mode & ~self.mask)  # noqa: PTH102 - the port speaks the system's own calls

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)  # noqa: PTH106 - as above

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)  # noqa: PTH104 - as above

    def unlink(self, path: Path) -> None:
        os.unlink(path)  # noqa: PTH108 - as above

    def free_bytes(self, path: Path) -> int:
        """What a person without privileges may still write to the file system that `path` is on: nothing, where hardly
        another file can be made."""
        found = os.statvfs(path)
        return 0 if found.f_files and found.f_favail < FEW_FILES else found.f_bavail * found.f_frsize

    def random_name(self) -> str:
        """Eight hexadecimal digits, for a name that nothing has yet."""
        return os.urandom(4).hex()


REAL = Storage()


def path_of(fd: int, path: Path) -> Path:
    """A path that this process can open as often as it likes, and that stands for the open file whatever becomes of its
    name. `path`: its name, for systems without such paths."""
    return Path(DESCRIPTORS, str(fd)) if os.path.isdir(DESCRIPTORS) else path  # noqa: PTH112 - as in `Storage`


def lets_group_in(mode: int) -> bool:
    """Whether a home with this mode was opened to its group on purpose: setgid, its group may read, nobody else."""
    return mode & 0o2057 == 0o2050


def use_mask_of(root: Path) -> None:
    """From here on this process makes files that are as open as the home at `root`, and never wider than its umask."""
    if lets_group_in(root.stat().st_mode):
        umask = os.umask(PRIVATE)
        os.umask(umask)
        Storage.mask = GROUP_MAY_READ | umask
    else:
        Storage.mask = PRIVATE
