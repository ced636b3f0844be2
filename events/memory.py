"""The facts of the machine's memory. A part of `kinds.py`, which has the rules for all of them."""

from __future__ import annotations

from typing import Literal

from events.event import Event


class MemoryLow(Event, frozen=True, kw_only=True, tag="memory_low"):
    """Others use more of the machine's memory than the config lets them: nothing is begun until they use less."""

    v: Literal[1] = 1
    total_bytes: int
    available_bytes: int
    """To anybody, without swapping."""
    worker_bytes: int
    """That the worker had by itself: they are wanted again when work goes on."""
    grace_s: float
    """What runs ends behind its next commit when it has not become better by then."""
    at: float
    """Unix time, seconds."""


class MemoryRecovered(Event, frozen=True, kw_only=True, tag="memory_recovered"):
    """There is memory enough again; work goes on by itself."""

    v: Literal[1] = 1
    available_bytes: int


AnyOfMemory = MemoryLow | MemoryRecovered
