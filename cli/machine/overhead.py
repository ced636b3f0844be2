"""Measure the overhead of the daemon: its CPU seconds by kind of work, and the time in which an attempt ran.

Laps cover all the time of the daemon's thread. A part within a lap is subtracted from it, so all time is counted once.
Reading the clock takes a fraction of a microsecond, about twenty times a turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cli.machine.clock import Clock
from core.commands import RecordOverhead

DAY_S = 86_400.0

FIRST_AFTER_S = 600.0
"""Seconds of training until the first report, so that new users and short-lived daemons get one, too."""

OTHER_THREADS = "watching files, logs, hooks"
"""The CPU time of all threads but the daemon's main thread."""


class OverheadMeter:
    """Counts from its creation, or from the last report."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._name = ""
        """The part that the thread is in; "": none."""
        self._first = True
        self._begin()

    def _begin(self) -> None:
        self.parts: dict[str, float] = {}
        self._mark = self._own = self._clock.cpu()
        self._began = self._last = self._clock.monotonic()
        self._cpu = self._last_cpu = self._clock.process_cpu()
        self._training_s = self._training_cpu_s = 0.0

    def lap(self, name: str) -> None:
        """Count the time since the last lap, without parts, as `name`."""
        self._turn_to("")
        self.parts[name] = self.parts.get(name, 0.0) + self.parts.pop("", 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of this block, without parts in it, as `name`."""
        outer = self._name
        self._turn_to(name)
        try:
            yield
        finally:
            self._turn_to(outer)

    def _turn_to(self, name: str) -> None:
        now = self._clock.cpu()
        self.parts[self._name] = self.parts.get(self._name, 0.0) + now - self._mark
        self._name, self._mark = name, now

    def end_turn(self, *, training: bool) -> None:
        """End a turn of the daemon. `training`: an attempt ran in it."""
        now, cpu = self._clock.monotonic(), self._clock.process_cpu()
        if training:
            self._training_s += now - self._last
            self._training_cpu_s += cpu - self._last_cpu
        self._last, self._last_cpu = now, cpu

    def take_report(self) -> RecordOverhead | None:
        """The report to journal, if one is due; the count then starts again."""
        whole_s = self._last - self._began
        if whole_s < DAY_S and not (self._first and self._training_s >= FIRST_AFTER_S):
            return None
        self._turn_to(self._name)
        cpu_s = max(0.0, self._last_cpu - self._cpu)
        others_s = max(0.0, cpu_s - (self._mark - self._own))
        parts = {name: round(max(0.0, spent_s), 3) for name, spent_s in sorted(self.parts.items()) if name}
        cost = RecordOverhead(
            wall_s=round(whole_s, 3),
            cpu_s=round(cpu_s, 3),
            training_s=round(self._training_s, 3),
            training_cpu_s=round(max(0.0, self._training_cpu_s), 3),
            parts={**parts, OTHER_THREADS: round(others_s, 3)},
        )
        self._first = False
        self._begin()
        return cost
