"""Memory and file descriptors of a process over its life, and whether they are flat.

The rule: a life is parted into four quarters by time. The first is for warming up (imports, the model, the first file).
Flat is, if the median of the last quarter is above that of the second by no more than

    memory             5 per cent, or 8 MiB where that is more: allocators and caches breathe
    file descriptors   2: a checkpoint or a log being written in the moment that was sampled

A life of less than two minutes says nothing, and fails nothing; where none of a role is longer, its longest is shown.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import psutil

EVERY_S = 2.0
LEAST_S = 120.0
GROWTH = 0.05
BREATH_BYTES = 8 * 2**20
DESCRIPTORS = 2


class Sample(NamedTuple):
    """What a process had at one moment."""

    at: float
    """Seconds, by a clock that nobody sets."""
    rss_bytes: int
    descriptors: int


class Flatness(NamedTuple):
    """How one figure stood in the second and in the last quarter of a life, and how much more was allowed."""

    second: float
    last: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether it is flat."""
        return self.last <= self.second + self.allowed


class Judged(NamedTuple):
    """One life."""

    role: str
    pid: int
    seconds: float
    memory: Flatness
    descriptors: Flatness

    @property
    def holds(self) -> bool:
        """Whether nothing leaks."""
        return self.memory.holds and self.descriptors.holds


def judge(role: str, pid: int, samples: Sequence[Sample]) -> Judged | None:
    """One life held against the rule; None if a quarter of it has no sample."""
    if len(samples) < 2:
        return None
    began, seconds = samples[0].at, samples[-1].at - samples[0].at
    quarters: list[list[Sample]] = [[], [], [], []]
    for sample in samples:
        quarters[min(3, int(4 * (sample.at - began) / seconds))].append(sample)
    if not all(quarters):
        return None
    memory = [median(sample.rss_bytes for sample in quarters[n]) for n in (1, 3)]
    descriptors = [median(sample.descriptors for sample in quarters[n]) for n in (1, 3)]
    return Judged(
        role=role,
        pid=pid,
        seconds=seconds,
        memory=Flatness(memory[0], memory[1], max(BREATH_BYTES, GROWTH * memory[0])),
        descriptors=Flatness(descriptors[0], descriptors[1], DESCRIPTORS),
    )


def judged(lives: Mapping[tuple[str, int], Sequence[Sample]]) -> list[Judged]:
    """Every life that is long enough to be judged; of a role that has none, the longest."""
    found = [each for (role, pid), samples in lives.items() if (each := judge(role, pid, samples)) is not None]
    chosen: list[Judged] = []
    for role in dict.fromkeys(each.role for each in found):
        mine = sorted((each for each in found if each.role == role), key=lambda each: -each.seconds)
        chosen += [each for each in mine if each.seconds >= LEAST_S] or mine[:1]
    return chosen


class Watch:
    """Samples processes every few seconds."""

    def __init__(self) -> None:
        self.lives: dict[tuple[str, int], list[Sample]] = {}
        self._next = 0.0

    def look(self, processes: Iterable[tuple[str, psutil.Process | None]]) -> None:
        """If it is time."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_S
        for role, process in processes:
            if process is None:
                continue
            try:
                sample = Sample(now, process.memory_info().rss, process.num_fds())
            except psutil.Error:  # it ended just now
                continue
            if sample.rss_bytes:  # none: it has ended, and nobody has asked how
                self.lives.setdefault((role, process.pid), []).append(sample)
