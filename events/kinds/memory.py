"""The machine's memory."""

from __future__ import annotations

from typing import Literal

from events.event import Event


class MemoryLow(Event, frozen=True, kw_only=True, tag="memory_low"):
    """Other processes use more of the machine's memory than the config allows: nothing starts until they use less."""

    v: Literal[1] = 1
    total_bytes: int
    available_bytes: int
    """Bytes that any process can get without swapping."""
    worker_bytes: int
    """Bytes of the worker, which must fit in again before work resumes."""
    grace_s: float
    """Grace period before the running attempt yields, seconds."""
    at: float
    """Unix time, seconds."""


class MemoryRecovered(Event, frozen=True, kw_only=True, tag="memory_recovered"):
    """There is enough memory again; work resumes by itself."""

    v: Literal[1] = 1
    available_bytes: int
