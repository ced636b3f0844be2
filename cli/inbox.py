"""The inbox: which files in it are complete.

A file is complete when its writer closed it, or when it has not changed for a while. watchdog says at once when
something happens; a poll every few seconds is the safety net, for what it misses (network file systems, an overflow)
and for what was there before the daemon.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from watchdog.events import FileClosedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from cli.home import Home
from events.values import Priority

POLL_EVERY_S = 2.0
SETTLED_S = 3.0
"""Unchanged for so long: complete. Longer than any pause of a writer that is at work; short beside any training."""

UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".swp")


def is_ignored(name: str) -> bool:
    """Names that say of themselves that they are not data, or not yet."""
    return name.startswith(".") or name.endswith(UNFINISHED) or name.endswith("~")


class Inbox:
    """Watches the inbox of a home. `wake` is called, from another thread, whenever something happened in it."""

    def __init__(self, home: Home, wake: Callable[[], None]) -> None:
        self._lanes: dict[Path, Priority] = {
            home.inbox / "high": "high",
            home.inbox: "normal",
            home.inbox / "low": "low",
        }
        self._closed: set[Path] = set()
        self._lock = threading.Lock()
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}
        self._wake = wake
        self._observer = Observer()

    def start(self) -> None:
        """Begin to watch."""
        for directory in self._lanes:
            directory.mkdir(exist_ok=True)
        handler = _Handler(self)
        for directory in self._lanes:
            self._observer.schedule(handler, str(directory))
        self._observer.daemon = True
        self._observer.start()

    def stop(self) -> None:
        """End watching."""
        self._observer.stop()
        self._observer.join(timeout=1.0)

    def heard(self, path: Path) -> None:
        """A writer closed `path`, or moved it here."""
        with self._lock:
            self._closed.add(path)
        self._wake()

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
            for path, shape in _regular_files(directory):
                before = self._seen.get(path)
                if before is None:
                    since = now - max(0.0, time.time() - shape[1] / 1e9)
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


def _regular_files(directory: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Files that may be taken, with size and time of change: no links, no directories, nothing unfinished."""
    try:
        names = os.listdir(directory)  # noqa: PTH208  # names are all that is asked for
    except FileNotFoundError:
        return  # removed by hand; if it comes back, the poll finds it
    for name in sorted(names):
        if is_ignored(name):
            continue
        path = directory / name
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue  # gone between the listing and now; whoever took it back may have it
        if stat.S_ISREG(found.st_mode):
            yield path, (found.st_size, found.st_mtime_ns)


class _Handler(FileSystemEventHandler):
    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def on_any_event(self, event: FileSystemEvent) -> None:
        if isinstance(event, FileClosedEvent):
            self._inbox.heard(Path(os.fsdecode(event.src_path)))
        elif isinstance(event, FileMovedEvent):
            self._inbox.heard(Path(os.fsdecode(event.dest_path)))
