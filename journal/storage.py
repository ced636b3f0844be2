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
from pathlib import Path

FEW_FILES = 64
"""A checkpoint is about a dozen files, and what is written while it is made a dozen more."""


class Storage:
    """The real one. All methods raise OSError."""

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

    def stat(self, path: Path) -> os.stat_result:
        """Of the name itself: a symbolic link is not followed."""
        return os.lstat(path)

    def is_open_for_writing(self, path: Path) -> bool:
        """Whether some process may still write to the file. False where the system cannot tell: links, network shares,
        files of other people."""
        try:
            fd = self.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
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

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        os.mkdir(path, mode)  # noqa: PTH102 - the port speaks the system's own calls

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
