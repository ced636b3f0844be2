"""The free space on the disk."""

from __future__ import annotations

from typing import Literal

from events.event import Event


class StorageExhausted(Event, frozen=True, kw_only=True, tag="storage_exhausted"):
    """The disk is full: nothing starts until space is free. Written from the journal's reserve."""

    v: Literal[2] = 2
    message: str
    wanted_bytes: int
    """Bytes that must be free before work resumes."""


class StorageFreed(Event, frozen=True, kw_only=True, tag="storage_freed"):
    """Enough space is free again; work resumes by itself."""

    v: Literal[1] = 1
    free_bytes: int


class StorageLow(Event, frozen=True, kw_only=True, tag="storage_low"):
    """Less is free than [disk] soft_gb: retention deletes what it may delete at once."""

    v: Literal[1] = 1
    free_bytes: int
    wanted_bytes: int


class StorageRecovered(Event, frozen=True, kw_only=True, tag="storage_recovered"):
    """More is free again than [disk] soft_gb."""

    v: Literal[1] = 1
    free_bytes: int
