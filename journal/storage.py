"""The port to the disk: one method for each system call that durability depends on.

It exists for fault injection: a test replaces it by a disk that fails, forgets what was not synced, or stops at any
call. So each method makes one call, and all durable writes go through it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from pathlib import Path

PRIVATE = 0o077
"""The mask of every mode: only the owner has access."""

GROUP_MASK = 0o027
"""The mask in a home that its group may read."""

DESCRIPTORS = "/proc/self/fd"
"""The directory in which Linux shows the open files of a process by number."""

FREE_FILES_MIN = 64
"""Free inodes below which a disk counts as full: a checkpoint needs about a dozen files, and views another dozen."""


class NotAFile(OSError):
    """`filename` is a link, a pipe, a socket, a device or a directory, not a regular file."""

    def __init__(self, path: Path | str, number: int, what: str) -> None:
        super().__init__(number, f"it is {what}, not a file; move it away, then try again", os.fspath(path))


class Storage:
    """The real disk. All methods raise OSError."""

    mask = PRIVATE
    """Permission bits that no new file or directory gets, whatever the umask of the process allows."""

    def open(self, path: Path, flags: int, mode: int = 0o640) -> int:
        """Open a regular file, or with O_DIRECTORY a directory. Raises NotAFile for anything else.

        All files of keepstep are opened here. A link is not followed: it could lead to any file of the user. Opening
        does not wait for a pipe. `mode` is reduced by `mask`. A path of `path_of` names an open file, so it is
        followed.
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
        """Return at most `length` bytes; fewer only at the end of the file."""
        return os.pread(fd, length, offset)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write, and return the number of bytes written: possibly not all."""
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def allocate(self, fd: int, length: int) -> None:
        """Allocate real blocks for the file up to `length`."""
        os.posix_fallocate(fd, 0, length)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def fstat(self, fd: int) -> os.stat_result:
        """Return the status of the open file, whatever its name means now."""
        return os.fstat(fd)

    def set_mode(self, fd: int, mode: int) -> None:
        """Set the permissions of an open file, reduced by `mask`."""
        os.fchmod(fd, mode & ~self.mask)

    def drop_cache(self, fd: int, offset: int = 0) -> None:
        """Drop cached pages: after a failed fsync they may show data that is not on disk.

        The bytes after `offset` are read soon, so the kernel is asked to load them.
        """
        os.posix_fadvise(fd, offset, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, offset, 0, os.POSIX_FADV_WILLNEED)

    def try_lock(self, fd: int, *, shared: bool = False) -> bool:
        """Try to lock the file; True if this process holds the lock. The kernel releases it when the holder dies."""
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
        """True if the name exists, also as a broken link."""
        return os.path.lexists(path)

    def stat(self, path: Path) -> os.stat_result:
        """Return the status of the name; a symbolic link is not followed."""
        return os.lstat(path)

    def is_open_for_writing(self, path: Path) -> bool:
        """True if a process has the file open for writing.

        False if the system cannot tell: links, network shares, files of other users.
        """
        try:
            fd = self.open(path, os.O_RDONLY)
        except OSError:  # the code that reads it gets the error
            return False
        try:
            # The kernel grants a read lease only if no process has the file open for writing. If one opens it during
            # the lease, the kernel sends a signal: SIGURG, which is ignored by default.
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            return error.errno == errno.EAGAIN
        finally:
            self.close(fd)
        return False

    def why_unreadable(self, path: Path) -> str | None:
        """Return why this process may not read the file; None if it may, or if the file is gone."""
        try:
            self.close(self.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
        except PermissionError as error:
            return error.strerror
        except OSError:  # the code that reads it gets the error
            return None
        return None

    def names(self, directory: Path) -> list[str]:
        """Return the names in a directory, unsorted."""
        return os.listdir(directory)  # noqa: PTH208 - only names are needed

    def mkdir(self, path: Path, mode: int = 0o750) -> None:
        os.mkdir(path, mode & ~self.mask)  # noqa: PTH102 - the port speaks the system's own calls

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)  # noqa: PTH106 - as above

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)  # noqa: PTH104 - as above

    def unlink(self, path: Path) -> None:
        os.unlink(path)  # noqa: PTH108 - as above

    def free_bytes(self, path: Path) -> int:
        """Return the free bytes of the file system for ordinary users; 0 if it has hardly any free inodes."""
        found = os.statvfs(path)
        return 0 if found.f_files and found.f_favail < FREE_FILES_MIN else found.f_bavail * found.f_frsize

    def total_bytes(self, path: Path) -> int:
        """Return the size of the file system, bytes."""
        found = os.statvfs(path)
        return found.f_blocks * found.f_frsize

    def random_name(self) -> str:
        """Return eight random hexadecimal digits, for a new name."""
        return os.urandom(4).hex()


REAL = Storage()


def path_of(fd: int, path: Path) -> Path:
    """Return a path that opens the open file `fd` again, whatever happens to its name.

    `path` is its name, returned on systems without such paths.
    """
    return Path(DESCRIPTORS, str(fd)) if os.path.isdir(DESCRIPTORS) else path  # noqa: PTH112 - as in `Storage`


def is_shared_with_group(mode: int) -> bool:
    """True if a home with this mode is shared with its group: setgid, readable by the group and by nobody else."""
    return mode & 0o2057 == 0o2050


def set_file_mask(root: Path) -> None:
    """Set the mask of all new files of this process: as open as the home at `root`, and at most as the umask allows."""
    if is_shared_with_group(root.stat().st_mode):
        umask = os.umask(PRIVATE)
        os.umask(umask)
        Storage.mask = GROUP_MASK | umask
    else:
        Storage.mask = PRIVATE
