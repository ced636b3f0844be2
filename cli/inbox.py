"""The inbox: which files in it are complete.

A file is complete when its writer closed it, or when it has not changed for a while. `cli/surroundings.py` hears at
once when something happens; a poll every few seconds is the safety net, for what that misses (network file systems, an
overflow) and for what was there before the daemon.
"""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from cli.home import Home
from events.values import Priority
from journal.storage import Storage

POLL_EVERY_S = 2.0
SETTLED_S = 3.0
"""Unchanged for so long: complete. Longer than any pause of a writer that is at work; short beside any training."""

UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".swp")


def is_ignored(name: str) -> bool:
    """Names that say of themselves that they are not data, or not yet."""
    return name.startswith(".") or name.endswith(UNFINISHED) or name.endswith("~")


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
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}

    def directories(self) -> list[Path]:
        """What there is to watch."""
        return list(self._lanes)

    def heard(self, path: Path) -> None:
        """A writer closed `path`, or moved it here. From any thread."""
        with self._lock:
            self._closed.add(path)

    def was_heard(self) -> bool:
        """Whether something happened since `complete` was last asked."""
        return bool(self._closed)

    def complete(self, now: float) -> Iterator[tuple[Path, Priority]]:
        """The files that can be taken, in the order of their names within each lane. `now`: monotonic seconds.

        A file that is seen for the first time counts as unchanged since its time of change: what lay there before
        the daemon need not wait.
        """
        with self._lock:
            closed, self._closed = self._closed, set()
        seen: dict[Path, tuple[tuple[int, int], float]] = {}
        for directory, priority in self._lanes.items():
            for path, shape in _regular_files(directory, self._storage):
                before = self._seen.get(path)
                if before is None:
                    since = now - max(0.0, self._clock.now() - shape[1] / 1e9)
                else:
                    since = before[1] if before[0] == shape else now
                if path in closed or now - since >= SETTLED_S:
                    yield path, priority
                else:
                    seen[path] = (shape, since)
        self._seen = seen

    def has_unsettled(self) -> bool:
        """Whether a file lies there that may still be being written."""
        return bool(self._seen)


def _regular_files(directory: Path, storage: Storage) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Files that may be taken, with size and time of change: no links, no directories, nothing unfinished."""
    try:
        names = storage.names(directory)
    except FileNotFoundError:
        return  # removed by hand; if it comes back, the poll finds it
    for name in sorted(names):
        if is_ignored(name):
            continue
        path = directory / name
        try:
            found = storage.stat(path)
        except FileNotFoundError:
            continue  # gone between the listing and now; whoever took it back may have it
        if stat.S_ISREG(found.st_mode):
            yield path, (found.st_size, found.st_mtime_ns)
