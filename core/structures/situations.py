"""Parts of the state that people see as they are: why work waits, what is wrong, what was counted.

They import nothing of the state machine, so that `keepstep status` can read them quickly.
"""

from __future__ import annotations

from msgspec import Struct


class Hold(Struct, frozen=True):
    """Why keepstep stopped by itself, and what a person can do."""

    reason: str
    advice: str


class DiskFull(Struct, frozen=True):
    """The message of the failed write, and the bytes that must be free before work resumes."""

    message: str
    wanted_bytes: int


class MemoryShortage(Struct, frozen=True, kw_only=True):
    """Measurements at the beginning of the shortage."""

    total_bytes: int
    available_bytes: int
    worker_bytes: int
    """Bytes of the worker, which must fit in again before work resumes."""
    since: float
    """Unix time, seconds."""
    grace_s: float
    """Grace period before the running attempt yields, seconds."""


class ConfigError(Struct, frozen=True):
    """Why keepstep.toml cannot be used as it is, and what a person can do."""

    reason: str
    advice: str


class Counts(Struct, frozen=True):
    """Files and jobs that have left the state."""

    trained: int = 0
    rejected: int = 0
    skipped: int = 0
    duplicates: int = 0
    removed: int = 0
