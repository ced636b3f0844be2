"""Rules for files of other users, before a file becomes a job.

An accepted file must not change: only the user of the daemon may have write access, and only under one name. And no
file may become readable on the way: the daemon can read files that the user who fills the inbox cannot.

    of the daemon's user, one name                   it is moved
    of the daemon's user, several names              it is copied; in a shared inbox it is refused
    of another user, one name                        it is copied
    of another user, several names                   it is refused: the maker of the link may not own the file.
                                                     In a shared inbox, a file that all can read is copied
    a link, a pipe, a directory, a device            it is skipped

All checks use the open file, never its name: the name may refer to another file a moment later.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from cli.home.paths import Home
from cli.home.trust import is_trusted
from journal import durable
from journal.storage import NotAFile

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class FileRefused(Exception):
    """The file is not accepted. Data: why, and what to do."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def collect_file(home: Home, path: Path, directory: Path) -> Path:
    """Move or copy a file from the inbox into `directory`. Returns its new path.

    A copy is durable before the original is deleted. A move is durable when the caller has synced `directory` and then
    the directory of `path`. Raises FileRefused (the file stays), FileNotFoundError if it is not a file any more or is
    written to during the copy, OSError.
    """
    storage = home.storage
    try:
        fd = storage.open(path, os.O_RDONLY)
    except NotAFile as error:
        raise FileNotFoundError(error.errno, "it is not a file any more", os.fspath(path)) from error
    try:
        found = storage.fstat(fd)
        _refuse(home, found)
        target = directory / path.name
        if _may_be_moved(found) and durable.rename_if_same_disk(path, target, storage=storage):
            return target
        target = directory / safe_name(path.name)
        durable.copy_open(fd, target, storage=storage)
        try:
            _unlink_copied(home, path, fd, found)
        except (FileNotFoundError, PermissionError):  # removed, or not removable: not accepted
            storage.unlink(target)
            raise
        return target
    finally:
        storage.close(fd)


def take_ownership(home: Home, file: Path) -> None:
    """Make sure that only this user can change `file`, in a directory that is private to this user.

    Copies the file or restricts its mode; never widens it.

    Raises FileRefused, journal.storage.NotAFile, OSError.
    """
    storage = home.storage
    with durable.opened(storage, file, os.O_RDONLY) as fd:
        found = storage.fstat(fd)
        _refuse(home, found)
        if _may_be_moved(found):
            storage.set_mode(fd, stat.S_IMODE(found.st_mode) & 0o640)
            # A process of another user may have opened it before, and can still write.
            if not found.st_mode & WRITABLE_BY_OTHERS or not storage.is_open_for_writing(file):
                return
        durable.copy_open(fd, file, storage=storage)


def _unlink_copied(home: Home, path: Path, fd: int, before: os.stat_result) -> None:
    """Delete the original of a copy, unless its name refers to another file now. `before`: its stat before the copy.

    Raises FileNotFoundError if it was changed meanwhile, or is open for writing; OSError.
    """
    storage = home.storage
    named, now = storage.stat(path), storage.fstat(fd)
    if (named.st_dev, named.st_ino) != (before.st_dev, before.st_ino):
        return
    changed = (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)
    if changed or storage.is_open_for_writing(path):
        raise FileNotFoundError(errno.ENOENT, "another process writes to it", os.fspath(path))
    storage.unlink(path)


def _may_be_moved(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and found.st_nlink == 1


def _refuse(home: Home, found: os.stat_result) -> None:
    """Raise FileRefused for a hard link whose maker may not have the right to read the file."""
    if found.st_nlink == 1:
        return
    if not inbox_is_shared(home):
        if found.st_uid == os.geteuid():
            return
        whose = "a file of another user"
    else:
        if found.st_uid != os.geteuid() and found.st_mode & stat.S_IROTH:
            return
        whose = "a file that the maker of the link may not be allowed to read"
    raise FileRefused(f"it is a hard link to {whose}; put a copy there instead: cp FILE INBOX")


def safe_name(name: str) -> str:
    """`name` as one visible path component of at most 200 bytes, so that prefixes and suffixes fit."""
    cleaned = name.replace("/", "_").replace("\0", "_").lstrip(".") or "unnamed"
    while len(os.fsencode(cleaned)) > 200:
        cleaned = cleaned[1:]  # keep the end: it has the suffix and often a number
    return cleaned


def inbox_is_shared(home: Home) -> bool:
    """True if users other than root and this one can put files into the inbox."""
    storage = home.storage
    for directory in (home.inbox, home.inbox / "high", home.inbox / "low"):
        try:
            found = storage.stat(directory)
        except FileNotFoundError:
            continue
        if not is_trusted(found.st_uid) or found.st_mode & WRITABLE_BY_OTHERS:
            return True
    return False
