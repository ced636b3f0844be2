"""Accept files from the inbox, a few in each turn of the daemon, so that 10,000 files at once delay nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.inbox.accept import accept_files
from cli.inbox.skipped_files import write_skipped_files
from cli.inbox.watcher import POLL_EVERY_S, Inbox
from cli.text import printable
from events.kinds import AnyEvent
from events.values import Priority

FILES_PER_TURN = 64
BYTES_PER_TURN = 32 << 20
"""The limits of a turn: its files arrive together, and each is read for its hash."""

SECONDS_PER_TURN = 0.2
"""A turn that takes longer makes the next one smaller: messages, status and signals wait for its end. A file takes a
few milliseconds, mostly waiting for the disk; a large file may take longer."""

FIRST_TURN = 8
"""Files in the first turn, before the speed of the disk is known."""

SCAN_PAUSE_FACTOR = 10.0
"""The pause after a scan, as a multiple of its duration, so that scans of many files leave time to accept them. A scan
of 20,000 files takes a quarter of a second."""


class Intake:
    """Accepts complete files, and reports each skipped file once."""

    def __init__(self, home: Home, inbox: Inbox, write: Callable[[str], None]) -> None:
        self._home, self._inbox, self._write = home, inbox, write
        self._next_scan = 0.0
        """Time of the next scan; 0: not scanned yet, or `scan_soon`."""
        self._scan_after = 0.0
        """Events cause no scan before this time."""
        self._files_max = FIRST_TURN
        """The number of files for the next turn."""
        self._reported: set[tuple[Path, str]] = set()
        self._shown: dict[Path, str] | None = None

    @property
    def has_scanned(self) -> bool:
        """True if the inbox was scanned."""
        return self._next_scan > 0.0

    @property
    def has_more(self) -> bool:
        """True if complete files are left for the next turn."""
        return self._inbox.has_complete()

    def scan_soon(self) -> None:
        """Scan in the next turn, because an obstacle is gone."""
        self._next_scan = 0.0

    def accept_some(self, store: EventStore) -> Iterator[AnyEvent]:
        """Scan if it is time to, and make jobs of the next complete files. Raises OSError,
        journal.errors.StorageFailed."""
        began = self._home.clock.monotonic()
        if began >= self._next_scan or (began >= self._scan_after and self._inbox.has_news() and not self.has_more):
            self._inbox.scan(began)
            looked = self._home.clock.monotonic()
            self._scan_after = looked + SCAN_PAUSE_FACTOR * (looked - began)
            self._next_scan = max(
                self._scan_after, min(began + POLL_EVERY_S, self._inbox.next_settle_time() or math.inf)
            )
        yield from self._take_turn(store)
        self._report_skipped(store)

    def _take_turn(self, store: EventStore) -> Iterator[AnyEvent]:
        began = self._home.clock.monotonic()
        files, size_bytes = list[tuple[Path, Priority]](), 0
        for path, priority, file_bytes in islice(self._inbox.complete_files(began), self._files_max):
            files.append((path, priority))
            size_bytes += file_bytes
            if size_bytes >= BYTES_PER_TURN:
                break
        yield from accept_files(store, files, self._inbox.refuse)
        took = self._home.clock.monotonic() - began
        if took > SECONDS_PER_TURN:
            self._files_max = max(1, int(len(files) * SECONDS_PER_TURN / took))
        elif len(files) == self._files_max:
            self._files_max = min(2 * self._files_max, FILES_PER_TURN)

    def _report_skipped(self, store: EventStore) -> None:
        """Report each skipped file once, and show all of them in the status."""
        if self._inbox.not_watched is not None:
            self._report(
                self._home.inbox,
                f"is not watched ({self._inbox.not_watched}): the kernel has no watch left. keepstep scans it every "
                f"{POLL_EVERY_S:g} s. To raise the limits: sysctl fs.inotify.max_user_instances, max_user_watches",
            )
        skipped_files = dict(self._inbox.skipped_files)
        for path, reason in skipped_files.items():
            self._report(path, reason)
        if skipped_files != self._shown and (skipped_files or self._home.storage.exists(self._home.skipped_files)):
            self._shown = skipped_files
            write_skipped_files(store, skipped_files)

    def _report(self, path: Path, reason: str) -> None:
        if (path, reason) not in self._reported:
            self._reported.add((path, reason))
            self._write(f"{printable(self._home.relative(path))} {reason}")
