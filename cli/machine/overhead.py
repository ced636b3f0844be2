"""What the daemon itself costs: its CPU seconds, by what they go into, beside the time in which an attempt runs.

Laps take the whole of the daemon's thread apart, and parts within a lap are taken out of it, so that nothing is
counted twice and nothing is left out. Reading the clock is a fraction of a microsecond, some twenty times a turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cli.machine.clock import Clock
from core.commands import RecordOverhead

DAY_S = 86_400.0

FIRST_AFTER_S = 600.0
"""Of training: whoever tries keepstep sees what it costs on the first day, and one that is started often says it."""

OTHER_THREADS = "watching files, logs, hooks"
"""What the process uses beside the daemon's own thread."""


class OverheadMeter:
    """Counts from when it is made, or last read."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._name = ""
        """What the thread is doing; "" within a lap that has no name yet."""
        self._first = True
        self._begin()

    def _begin(self) -> None:
        self.parts: dict[str, float] = {}
        self._mark = self._own = self._clock.cpu()
        self._began = self._last = self._clock.monotonic()
        self._cpu = self._last_cpu = self._clock.process_cpu()
        self._training_s = self._training_cpu_s = 0.0

    def lap(self, name: str) -> None:
        """What was done since the last lap, and in no part, was `name`."""
        self._turn_to("")
        self.parts[name] = self.parts.get(name, 0.0) + self.parts.pop("", 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is done in this block is `name`, but for parts within it."""
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

    def turned(self, *, training: bool) -> None:
        """Another turn of the daemon is over, in which an attempt ran or did not."""
        now, cpu = self._clock.monotonic(), self._clock.process_cpu()
        if training:
            self._training_s += now - self._last
            self._training_cpu_s += cpu - self._last_cpu
        self._last, self._last_cpu = now, cpu

    def due(self) -> RecordOverhead | None:
        """What is to be journaled, if it is time to; then it counts anew."""
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
