"""The daemon's hand in the inbox: a few files a turn, so that ten thousand at once keep it from nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.inbox.accept import take_all
from cli.inbox.skipped_files import write_skipped_files
from cli.inbox.watcher import POLL_EVERY_S, Inbox
from cli.text import printable
from events.kinds import AnyEvent
from events.values import Priority

FILES_A_TURN = 64
BYTES_A_TURN = 32 << 20
"""Whichever is reached first: the files of a turn arrive together, and each is read whole for its hash."""

SECONDS_A_TURN = 0.2
"""A turn that takes longer makes the next one smaller: the worker is heard, the status written and a signal obeyed
between two turns. A file costs some milliseconds, most of them waits for the disk. One large file may take longer."""

FIRST_TURN = 8
"""Files, while it is unknown how fast the disk is."""

REST = 10.0
"""Times what a look took: it takes as long as there are files, and with all of them it must not fill the time that
taking them needs. Twenty thousand are looked at in a quarter of a second."""


class Intake:
    """Takes what is complete, and says once of each thing that is not taken why."""

    def __init__(self, home: Home, inbox: Inbox, write: Callable[[str], None]) -> None:
        self._home, self._inbox, self._write = home, inbox, write
        self._next_poll = 0.0
        """When the inbox is looked at again; 0: it has not been, since there is room."""
        self._rested = 0.0
        """Not before this is it looked at for an event."""
        self._most = FIRST_TURN
        """Files of the next turn."""
        self._said: set[tuple[Path, str]] = set()
        self._shown: dict[Path, str] | None = None

    @property
    def has_looked(self) -> bool:
        """Whether it is known what lies in the inbox."""
        return self._next_poll > 0.0

    @property
    def has_more(self) -> bool:
        """Whether complete files are left for the next turn."""
        return self._inbox.has_complete()

    def look_again(self) -> None:
        """At the next turn: something that stood in the way is gone."""
        self._next_poll = 0.0

    def take(self, store: EventStore) -> Iterator[AnyEvent]:
        """Make jobs of the next complete files. Raises OSError, journal.errors.StorageFailed."""
        began = self._home.clock.monotonic()
        if began >= self._next_poll or (began >= self._rested and self._inbox.was_seen() and not self.has_more):
            self._inbox.look(began)
            looked = self._home.clock.monotonic()
            self._rested = looked + REST * (looked - began)
            self._next_poll = max(self._rested, min(began + POLL_EVERY_S, self._inbox.next_settled() or math.inf))
        yield from self._take_turn(store)
        self._tell(store)

    def _take_turn(self, store: EventStore) -> Iterator[AnyEvent]:
        began = self._home.clock.monotonic()
        files, size_bytes = list[tuple[Path, Priority]](), 0
        for path, priority, file_bytes in islice(self._inbox.complete(began), self._most):
            files.append((path, priority))
            size_bytes += file_bytes
            if size_bytes >= BYTES_A_TURN:
                break
        yield from take_all(store, files, self._inbox.refuse)
        took = self._home.clock.monotonic() - began
        if took > SECONDS_A_TURN:
            self._most = max(1, int(len(files) * SECONDS_A_TURN / took))
        elif len(files) == self._most:
            self._most = min(2 * self._most, FILES_A_TURN)

    def _tell(self, store: EventStore) -> None:
        """Say once of each thing why it is not taken, and show all of them in the status."""
        if self._inbox.not_watched is not None:
            self._say(
                self._home.inbox,
                f"is not watched ({self._inbox.not_watched}): the kernel has no watch left. keepstep looks every "
                f"{POLL_EVERY_S:g} s. To raise the limits: sysctl fs.inotify.max_user_instances, max_user_watches",
            )
        skipped_files = dict(self._inbox.skipped_files)
        for path, reason in skipped_files.items():
            self._say(path, reason)
        if skipped_files != self._shown and (skipped_files or self._home.storage.exists(self._home.skipped_files)):
            self._shown = skipped_files
            write_skipped_files(store, skipped_files)

    def _say(self, path: Path, reason: str) -> None:
        if (path, reason) not in self._said:
            self._said.add((path, reason))
            self._write(f"{printable(self._home.relative(path))} {reason}")
