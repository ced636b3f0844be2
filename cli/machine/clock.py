"""The time, as the daemon and the commands see it. A port, so that a test can have a clock that jumps."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """The machine's own."""

    def now(self) -> float:
        """Unix time, seconds. May jump, both ways: people and time servers set it."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()

    def cpu(self) -> float:
        """CPU seconds that this thread has used."""
        return time.thread_time()

    def process_cpu(self) -> float:
        """CPU seconds that this process has used, all its threads."""
        return time.process_time()


REAL_CLOCK = Clock()


def timestamp(now: float) -> str:
    """A Unix time as the journal writes it."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
