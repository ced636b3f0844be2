"""The inbox: which files in it are complete.

A file is complete when its writer closed it, or when it has not changed for a while and nobody has it open for
writing. What is no file is left where it is, and `not_taken` says why. `cli/surroundings.py` hears at
once when something happens; a poll every few seconds is the safety net, for what that misses (network file systems, an
overflow) and for what was there before the daemon.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cli.home import Home
from events.values import Priority
from journal.storage import Storage

POLL_EVERY_S = 2.0
SETTLED_S = 3.0
"""Unchanged for so long: complete. Longer than any pause of a writer that is at work; short beside any training."""

LONG_WRITTEN_S = 60.0
"""Only then is a writer that does not close its file mentioned: most take less."""

STILL_WRITTEN = "is still open for writing; it is taken when its writer closes it"

UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".swp")


Shape = tuple[int, int]
"""Size in bytes, and time of change in nanoseconds: while both are the same, nobody writes."""


def is_ignored(name: str) -> bool:
    """Names that say of themselves that they are not data, or not yet."""
    return name.startswith(".") or name.endswith(UNFINISHED) or name.endswith("~")


class Waiting(NamedTuple):
    """A complete file."""

    shape: Shape
    priority: Priority


class Inbox:
    """The inbox of a home, and what is known about the files in it."""

    def __init__(self, home: Home) -> None:
        self._storage, self._clock = home.storage, home.clock
        self._lanes: dict[Path, Priority] = {
            home.inbox / "high": "high",
            home.inbox: "normal",
            home.inbox / "low": "low",
        }
        self._closed: set[Path] = set()
        self._lock = threading.Lock()
        self._seen: dict[Path, tuple[Shape, float]] = {}
        """Files that may still be being written, and since when they are unchanged. Monotonic seconds."""
        self._complete: dict[Path, Waiting] = {}
        self._written_since: dict[Path, float] = {}
        """When each was first found complete but for a writer that still had it open."""
        self.not_taken: dict[Path, str] = {}
        """What lies there and is no file that could be taken, with what to do about it."""

    def directories(self) -> list[Path]:
        """What there is to watch."""
        return list(self._lanes)

    def heard(self, path: Path) -> None:
        """A writer closed `path`, or moved it here. From any thread."""
        with self._lock:
            self._closed.add(path)

    def was_heard(self) -> bool:
        """Whether something happened since the last `look`."""
        return bool(self._closed)

    def look(self, now: float) -> None:
        """Find out what lies there now. `now`: monotonic seconds.

        A file that is seen for the first time counts as unchanged since its time of change: what lay there before
        the daemon need not wait.
        """
        with self._lock:
            closed, self._closed = self._closed, set()
        seen: dict[Path, tuple[Shape, float]] = {}
        complete: dict[Path, Waiting] = {}
        self.not_taken = {}
        for directory, priority in self._lanes.items():
            for path, found in _entries(directory, self._storage):
                if not stat.S_ISREG(found.st_mode):
                    if path not in self._lanes:
                        self.not_taken[path] = _why_not(found.st_mode)
                    continue
                shape = (found.st_size, found.st_mtime_ns)
                before, waited = self._seen.get(path), self._complete.get(path)
                if before is None:
                    since = now - max(0.0, self._clock.now() - shape[1] / 1e9)
                else:
                    since = before[1] if before[0] == shape else now
                still = waited is not None and waited.shape == shape
                if path in closed or still or now - since >= SETTLED_S:
                    complete[path] = Waiting(shape, priority)
                else:
                    seen[path] = (shape, since)
        self._seen, self._complete = seen, complete
        there = (seen.keys() | complete.keys()) - closed
        self._written_since = {path: at for path, at in self._written_since.items() if path in there}
        self.not_taken.update(
            (path, STILL_WRITTEN) for path, at in self._written_since.items() if now - at >= LONG_WRITTEN_S
        )

    def complete(self, now: float) -> Iterator[tuple[Path, Priority]]:
        """The files that can be taken, each once, in the order of their names within each lane.

        One that somebody still has open for writing is left for a later `look`, however long it has not changed.
        """
        while self._complete:
            path = next(iter(self._complete))
            shape, priority = self._complete.pop(path)
            if self._storage.is_open_for_writing(path):
                self._seen[path] = (shape, now)
                self._written_since.setdefault(path, now)
            else:
                self._written_since.pop(path, None)
                yield path, priority

    def has_complete(self) -> bool:
        """Whether files are left that can be taken."""
        return bool(self._complete)

    def has_unsettled(self) -> bool:
        """Whether a file lies there that may still be being written."""
        return bool(self._seen)


def _entries(directory: Path, storage: Storage) -> Iterator[tuple[Path, os.stat_result]]:
    """What lies there under a name that does not say unfinished, in order."""
    try:
        names = storage.names(directory)
    except FileNotFoundError:
        return  # removed by hand; if it comes back, the poll finds it
    for name in sorted(names):
        if is_ignored(name):
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
