"""The facts of keepstep's own upkeep. A part of `kinds.py`, which has the rules for all of them."""

from __future__ import annotations

from typing import Literal

from events.event import Event


class OrphanEnded(Event, frozen=True, kw_only=True, tag="orphan_ended"):
    """A worker that an earlier daemon of this home had left behind was still there when the next one started."""

    v: Literal[1] = 1
    pid: int
    started_at: float
    """Unix time, seconds. With the pid, it names the process."""
    command: str


class WatchCostMeasured(Event, frozen=True, kw_only=True, tag="watch_cost_measured"):
    """What the daemon itself took since it was last measured, beside the training that it watches: once a day."""

    v: Literal[1] = 1
    wall_s: float
    """The time that was measured."""
    cpu_s: float
    """Of the daemon's process, all threads, in that time."""
    training_s: float
    """As much of the time as an attempt ran."""
    training_cpu_s: float
    """Of the daemon's process in that part of it."""
    parts: dict[str, float]
    """CPU seconds by what they went into; together `cpu_s`."""
