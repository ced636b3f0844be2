"""Whose a file is that comes from outside, and what follows from that before it becomes a job.

What is accepted is never changed again: only the user of the daemon may be able to, and by no name but its own. And
nothing becomes readable by the way: a daemon may read what the person who fills its inbox may not.

    of the daemon's user, one name                   it is moved
    of the daemon's user, several names              it is copied; refused where others may write to the inbox
    of another user, one name                        it is copied
    of another user, several names                   it is refused: whoever made the link need not own the file.
                                                     Where others may write to the inbox and everybody may read the
                                                     file, it is copied
    a link, a pipe, a directory, a device            it is not taken

All of it is asked of the open file, and never of its name: a name can stand for another file a moment later.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from cli.home import Home
from cli.trust import is_trusted
from journal import durable
from journal.storage import NotAFile

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class NotTaken(Exception):
    """A file stays out. Data: why, and what to do."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def bring(home: Home, path: Path, directory: Path) -> Path:
    """Bring a file out of the inbox into `directory`, moved or copied; its new path. A copy is on disk before the
    original goes. A move is durable when the caller has synced `directory`, and after it the directory of `path`.

    Raises NotTaken (the file then stays where it is), FileNotFoundError if it is no file any more, or if somebody
    writes to it while it is copied; OSError.
    """
    storage = home.storage
    try:
        fd = storage.open(path, os.O_RDONLY)
    except NotAFile as error:
        raise FileNotFoundError(error.errno, "it was a file, and is none any more", os.fspath(path)) from error
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
        except (FileNotFoundError, PermissionError):  # taken back, or it has to stay: then it is not accepted
            storage.unlink(target)
            raise
        return target
    finally:
        storage.close(fd)


def make_ours(home: Home, file: Path) -> None:
    """Make sure that only this user can change `file`, which lies where nobody else can exchange it; no mode is wider
    than it was.

    Raises NotTaken, journal.storage.NotAFile, OSError.
    """
    storage = home.storage
    with durable.opened(storage, file, os.O_RDONLY) as fd:
        found = storage.fstat(fd)
        _refuse(home, found)
        if _may_be_moved(found):
            storage.set_mode(fd, stat.S_IMODE(found.st_mode) & 0o640)
            # Others could open it as long as its mode let them, and whoever has it open can still write.
            if not found.st_mode & WRITABLE_BY_OTHERS or not storage.is_open_for_writing(file):
                return
        durable.copy_open(fd, file, storage=storage)


def _unlink_copied(home: Home, path: Path, fd: int, before: os.stat_result) -> None:
    """Remove the original of a copy, unless its name stands for another file by now. `before`: as the copy began.

    Raises FileNotFoundError if somebody wrote to it meanwhile, or still may; OSError.
    """
    storage = home.storage
    named, now = storage.stat(path), storage.fstat(fd)
    if (named.st_dev, named.st_ino) != (before.st_dev, before.st_ino):
        return
    changed = (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)
    if changed or storage.is_open_for_writing(path):
        raise FileNotFoundError(errno.ENOENT, "somebody writes to it", os.fspath(path))
    storage.unlink(path)


def _may_be_moved(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and found.st_nlink == 1


def _refuse(home: Home, found: os.stat_result) -> None:
    """Raise NotTaken for a link that may have been made by somebody who may not read the file."""
    if found.st_nlink == 1:
        return
    if not others_fill_inbox(home):
        if found.st_uid == os.geteuid():
            return
        whose = "a file of another user"
    else:
        if found.st_uid != os.geteuid() and found.st_mode & stat.S_IROTH:
            return
        whose = "a file that whoever made the link need not be allowed to read"
    raise NotTaken(f"it is a hard link to {whose}; put a copy there instead: cp FILE INBOX")


def safe_name(name: str) -> str:
    """`name` as one path component that stays where it is put, with room for what is added to it."""
    cleaned = name.replace("/", "_").replace("\0", "_").lstrip(".") or "unnamed"
    while len(os.fsencode(cleaned)) > 200:
        cleaned = cleaned[1:]  # the end of a name tells files apart, and holds its suffix
    return cleaned


def others_fill_inbox(home: Home) -> bool:
    """Whether anybody but root and the user of this process can put files into the inbox."""
    storage = home.storage
    for directory in (home.inbox, home.inbox / "high", home.inbox / "low"):
        try:
            found = storage.stat(directory)
        except FileNotFoundError:
            continue
        if not is_trusted(found.st_uid) or found.st_mode & WRITABLE_BY_OTHERS:
            return True
    return False
