"""Find the complete files in the inbox.

A file is complete when its size, modification time and inode have not changed for `[inbox] settle_s` and no process has
it open for writing. A close proves nothing: many programs open, append and close for each row. The rule also holds for
a file that is renamed into the inbox; it keeps its modification time, so an old one is complete at once.
`cli/inbox/accept.py` checks for a writer again after the move, when no process can open the old name, and puts a file
with one back.

Other entries stay in the inbox, and `skipped_files` says why. `cli/daemon/ports.py` reports file-system events at once.
A scan every few seconds finds what they miss: network file systems, an overflow, files from before the daemon.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cli.home.paths import Home
from cli.inbox.unfinished_names import is_unfinished
from events.settings import InboxSettings
from events.values import Priority
from journal.storage import Storage

POLL_EVERY_S = 2.0

LONG_WRITTEN_S = 60.0
"""A writer that keeps its file open is reported after this time; most take less."""

STILL_WRITTEN = "is still open for writing; it is accepted when its writer closes it"


class FileStamp(NamedTuple):
    """The properties of a file that a writer changes."""

    size_bytes: int
    mtime_ns: int
    inode: int


class SeenFile(NamedTuple):
    """A file, and the time of its last change."""

    stamp: FileStamp
    since: float
    """Monotonic seconds."""
    priority: Priority


class Inbox:
    """The inbox of a home and the files in it."""

    def __init__(self, home: Home, settings: Callable[[], InboxSettings] = InboxSettings) -> None:
        """`settings` returns the settings in force."""
        self._storage, self._clock, self._settings = home.storage, home.clock, settings
        self._lanes = _lanes(home)
        self._has_news = False
        self._files: dict[Path, SeenFile] = {}
        """All regular files that are not accepted yet."""
        self._complete: dict[Path, SeenFile] = {}
        """The files that have settled, in the order in which they are accepted."""
        self._refused: dict[Path, str] = {}
        """The files that the daemon cannot accept, and why."""
        self._written_since: dict[Path, float] = {}
        """Settled files that a process has open for writing, and since when."""
        self.skipped_files: dict[Path, str] = {}
        """Entries that cannot be accepted, with what to do."""
        self.not_watched: str | None = None
        """Why there are no file-system events, so that only scans find files; None: there are events."""

    def directories(self) -> list[Path]:
        """The directories to watch."""
        return list(self._lanes)

    def notify(self) -> None:
        """Report that a file was closed or renamed in the inbox. Thread-safe."""
        self._has_news = True

    def has_news(self) -> bool:
        """True if there was an event since the last `scan`."""
        return self._has_news

    def scan(self, now: float) -> None:
        """List the inbox. `now`: monotonic seconds.

        A file that is seen for the first time counts as unchanged since its modification time, so a file from before
        the daemon need not wait.
        """
        self._has_news = False
        before, self._files, self._complete = self._files, {}, {}
        settings, wall_clock = self._settings(), self._clock.now()
        self.skipped_files = {}
        for directory, priority in self._lanes.items():
            settle_s = settings.of(priority)
            for path, found in _entries(directory, self._storage):
                if not stat.S_ISREG(found.st_mode):
                    if path not in self._lanes:
                        self.skipped_files[path] = _why_not(found.st_mode)
                    continue
                file = _seen_file(before.get(path), _stamp(found), priority, now, wall_clock)
                self._files[path] = file
                if now - file.since >= settle_s:
                    self._complete[path] = file
        self._refused = {path: why for path, why in self._refused.items() if path in self._files}
        self._written_since = {path: at for path, at in self._written_since.items() if path in self._files}
        self.skipped_files.update(self._refused)
        for path, at in self._written_since.items():
            if path in self._complete and now - at >= LONG_WRITTEN_S:
                self.skipped_files[path] = STILL_WRITTEN

    def complete_files(self, now: float) -> Iterator[tuple[Path, Priority, int]]:
        """Yield each complete file with its priority and size in bytes, once; in each lane in the order of names.

        Skips a file that changed since the last `scan`, or that is open for writing, until a later scan.
        """
        while self._complete:
            path = next(iter(self._complete))
            file = self._complete.pop(path)
            try:
                stamp = _stamp(self._storage.stat(path))
            except FileNotFoundError:
                self._files.pop(path, None)  # the user removed it
                continue
            if stamp != file.stamp:
                self._files[path] = SeenFile(stamp, now, file.priority)
            elif (why := self._storage.why_unreadable(path)) is not None:
                self.refuse(path, why)
            elif self._storage.is_open_for_writing(path):
                self._written_since.setdefault(path, now)
            else:
                for known in (self._files, self._refused, self._written_since, self.skipped_files):
                    known.pop(path, None)
                yield path, file.priority, stamp.size_bytes

    def refuse(self, path: Path, why: str) -> None:
        """Record why a file cannot be accepted. It stays in the inbox and is tried again after each `scan`."""
        self._refused[path] = self.skipped_files[path] = (
            f"cannot be accepted: {why}. It stays in the inbox until the user who runs keepstep can read it (`chmod`, "
            "`chown`)"
        )

    def refuse_unreadable(self) -> None:
        """Refuse all files that this process cannot read."""
        for path in self._files:
            if (why := self._storage.why_unreadable(path)) is not None:
                self.refuse(path, why)

    def has_complete(self) -> bool:
        """True if complete files are left."""
        return bool(self._complete)

    def has_unsettled(self) -> bool:
        """True if a file may be incomplete."""
        return any(path not in self._refused for path in self._files)

    def next_settle_time(self) -> float | None:
        """When the next file settles if it does not change, monotonic seconds; None: no file waits."""
        settings = self._settings()
        waiting = self._files.keys() - self._complete.keys() - self._refused.keys() - self._written_since.keys()
        return min(
            (self._files[path].since + settings.of(self._files[path].priority) for path in waiting), default=None
        )


def find_skipped(home: Home) -> dict[Path, str]:
    """The entries of the inbox that this process could not accept, and why. For a home without a daemon."""
    inbox = Inbox(home)
    inbox.scan(home.clock.monotonic())
    inbox.refuse_unreadable()
    return inbox.skipped_files


def _lanes(home: Home) -> dict[Path, Priority]:
    return {home.inbox / "high": "high", home.inbox: "normal", home.inbox / "low": "low"}


def _stamp(found: os.stat_result) -> FileStamp:
    return FileStamp(found.st_size, found.st_mtime_ns, found.st_ino)


def _seen_file(
    before: SeenFile | None, stamp: FileStamp, priority: Priority, now: float, wall_clock: float
) -> SeenFile:
    """`wall_clock`: Unix time. A modification time in the future counts as now."""
    if before is None:
        return SeenFile(stamp, now - max(0.0, wall_clock - stamp.mtime_ns / 1e9), priority)
    return before if before.stamp == stamp else SeenFile(stamp, now, priority)


def _entries(directory: Path, storage: Storage) -> Iterator[tuple[Path, os.stat_result]]:
    """The entries whose names are not those of unfinished files, in order."""
    try:
        names = storage.names(directory)
    except FileNotFoundError:
        return  # a user removed it; a later scan finds it if it returns
    for name in sorted(names):
        if is_unfinished(name):
            continue
        path = directory / name
        with contextlib.suppress(FileNotFoundError):  # removed since the listing
            yield path, storage.stat(path)


def _why_not(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "is a directory and is ignored; put its files into the inbox itself"
    if stat.S_ISLNK(mode):
        return "is a link and is not followed; put the file itself there, or `keepstep add` it"
    return "is not a file (a pipe, a socket, a device) and is never accepted; remove it from the inbox"
