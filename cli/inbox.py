"""The inbox: which files in it are complete.

A file is complete when nothing about it (size, time of change, inode) has changed for `[inbox] settle_s` and nobody has
it open for writing. That a writer closes its file proves nothing: many programs open, append and close for each row. A
file that is renamed into the inbox obeys the same rule. It keeps its time of change: one that was written long
before is taken at once. `cli/arrivals.py` looks for a writer once more after the move, when nobody can open the file by
its name any more, and puts a file with one back.

What cannot be taken stays where it is, and `not_taken` says why. `cli/surroundings.py` hears at once when something
happens. A poll every few seconds finds what that misses: network file systems, an overflow, files from before the
daemon.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cli.home import Home
from cli.unfinished_names import is_unfinished
from events.settings import InboxSettings
from events.values import Priority
from journal.storage import Storage

POLL_EVERY_S = 2.0

LONG_WRITTEN_S = 60.0
"""Only then is a writer that does not close its file mentioned: most take less."""

STILL_WRITTEN = "is still open for writing; it is taken when its writer closes it"


class Shape(NamedTuple):
    """What a writer changes."""

    size_bytes: int
    mtime_ns: int
    inode: int


class Resting(NamedTuple):
    """A file, and since when it has not changed."""

    shape: Shape
    since: float
    """Monotonic seconds."""
    priority: Priority


class Inbox:
    """The inbox of a home, and what is known about the files in it."""

    def __init__(self, home: Home, settings: Callable[[], InboxSettings] = InboxSettings) -> None:
        """`settings`: those that are in force now."""
        self._storage, self._clock, self._settings = home.storage, home.clock, settings
        self._lanes = _lanes(home)
        self._heard = False
        self._there: dict[Path, Resting] = {}
        """Every regular file that was not taken yet."""
        self._complete: dict[Path, Resting] = {}
        """Those of them that have settled, in the order in which they are taken."""
        self._refused: dict[Path, str] = {}
        """Those of them that the daemon may not read, and why not."""
        self._written_since: dict[Path, float] = {}
        """When each was first found settled but for a writer that still had it open."""
        self.not_taken: dict[Path, str] = {}
        """What lies there and cannot be taken, with what to do about it."""
        self.not_watched: str | None = None
        """Why nobody reports events, so that only the poll finds files; None: somebody does."""

    def directories(self) -> list[Path]:
        """What there is to watch."""
        return list(self._lanes)

    def heard(self) -> None:
        """Something was closed or renamed in the inbox. From any thread."""
        self._heard = True

    def was_heard(self) -> bool:
        """Whether something happened since the last `look`."""
        return self._heard

    def look(self, now: float) -> None:
        """Find out what lies there now. `now`: monotonic seconds.

        A file that is seen for the first time counts as unchanged since its time of change: what lay there before
        the daemon need not wait.
        """
        self._heard = False
        before, self._there, self._complete = self._there, {}, {}
        settings, wall_clock = self._settings(), self._clock.now()
        self.not_taken = {}
        for directory, priority in self._lanes.items():
            settle_s = settings.of(priority)
            for path, found in _entries(directory, self._storage):
                if not stat.S_ISREG(found.st_mode):
                    if path not in self._lanes:
                        self.not_taken[path] = _why_not(found.st_mode)
                    continue
                resting = _resting(before.get(path), _shape(found), priority, now, wall_clock)
                self._there[path] = resting
                if now - resting.since >= settle_s:
                    self._complete[path] = resting
        self._refused = {path: why for path, why in self._refused.items() if path in self._there}
        self._written_since = {path: at for path, at in self._written_since.items() if path in self._there}
        self.not_taken.update(self._refused)
        for path, at in self._written_since.items():
            if path in self._complete and now - at >= LONG_WRITTEN_S:
                self.not_taken[path] = STILL_WRITTEN

    def complete(self, now: float) -> Iterator[tuple[Path, Priority, int]]:
        """The files that can be taken, and their sizes in bytes: each once, in the order of their names in each lane.

        One that changed since the last `look`, or that somebody still has open for writing, is left for a later one.
        """
        while self._complete:
            path = next(iter(self._complete))
            resting = self._complete.pop(path)
            try:
                shape = _shape(self._storage.stat(path))
            except FileNotFoundError:
                self._there.pop(path, None)  # taken back
                continue
            if shape != resting.shape:
                self._there[path] = Resting(shape, now, resting.priority)
            elif (why := self._storage.why_unreadable(path)) is not None:
                self.refuse(path, why)
            elif self._storage.is_open_for_writing(path):
                self._written_since.setdefault(path, now)
            else:
                for known in (self._there, self._refused, self._written_since, self.not_taken):
                    known.pop(path, None)
                yield path, resting.priority, shape.size_bytes

    def refuse(self, path: Path, why: str) -> None:
        """The file cannot be taken for `why`: it stays where it is, and is tried again at each `look`."""
        self._refused[path] = self.not_taken[path] = _unreadable(why)

    def has_complete(self) -> bool:
        """Whether files are left that can be taken."""
        return bool(self._complete)

    def has_unsettled(self) -> bool:
        """Whether a file lies there that may still be being written."""
        return any(path not in self._refused for path in self._there)

    def next_settled(self) -> float | None:
        """When the next file has rested for long enough, if nobody touches it; None: there is none. Monotonic."""
        settings = self._settings()
        waiting = self._there.keys() - self._complete.keys() - self._refused.keys() - self._written_since.keys()
        return min(
            (self._there[path].since + settings.of(self._there[path].priority) for path in waiting), default=None
        )


def not_taken_now(home: Home) -> dict[Path, str]:
    """What lies in the inbox and cannot be taken by this process, and why not: for a home without a daemon."""
    found: dict[Path, str] = {}
    lanes = _lanes(home)
    for directory in lanes:
        for path, there in _entries(directory, home.storage):
            if not stat.S_ISREG(there.st_mode):
                if path not in lanes:
                    found[path] = _why_not(there.st_mode)
            elif (why := home.storage.why_unreadable(path)) is not None:
                found[path] = _unreadable(why)
    return found


def _lanes(home: Home) -> dict[Path, Priority]:
    return {home.inbox / "high": "high", home.inbox: "normal", home.inbox / "low": "low"}


def _shape(found: os.stat_result) -> Shape:
    return Shape(found.st_size, found.st_mtime_ns, found.st_ino)


def _resting(before: Resting | None, shape: Shape, priority: Priority, now: float, wall_clock: float) -> Resting:
    """`wall_clock`: Unix time. A time of change in the future counts as now."""
    if before is None:
        return Resting(shape, now - max(0.0, wall_clock - shape.mtime_ns / 1e9), priority)
    return before if before.shape == shape else Resting(shape, now, priority)


def _entries(directory: Path, storage: Storage) -> Iterator[tuple[Path, os.stat_result]]:
    """What lies there under a name that does not say unfinished, in order."""
    try:
        names = storage.names(directory)
    except FileNotFoundError:
        return  # removed by hand; if it comes back, the poll finds it
    for name in sorted(names):
        if is_unfinished(name):
            continue
        path = directory / name
        with contextlib.suppress(FileNotFoundError):  # gone since the listing; whoever took it back may have it
            yield path, storage.stat(path)


def _why_not(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "is a directory and is not looked into; put the files that are in it into the inbox itself"
    if stat.S_ISLNK(mode):
        return "is a link and is not followed; put the file itself there, or `keepstep add` it"
    return "is no file (a pipe, a socket, a device) and is never taken; take it out of the inbox"


def _unreadable(why: str) -> str:
    return (
        f"cannot be taken from the inbox: {why}. It stays there and is taken as soon as the user who runs keepstep may "
        "read it (`chmod`, `chown`)"
    )
