"""The clock of the daemon and the commands. A port, so that tests can use a clock that jumps."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """The machine's clock."""

    def now(self) -> float:
        """Unix time, seconds. May jump in both directions: users and time servers set it."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never decreases."""
        return time.monotonic()

    def cpu(self) -> float:
        """CPU seconds of this thread."""
        return time.thread_time()

    def process_cpu(self) -> float:
        """CPU seconds of all threads of this process."""
        return time.process_time()


REAL_CLOCK = Clock()


def timestamp(now: float) -> str:
    """A Unix time in the format of the journal."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
