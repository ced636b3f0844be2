"""A full disk: nothing starts and no file moves until enough space is free. Pausing and stopping do not depend on
it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from core import commands
from core.checks import illegal
from core.effect import Effect
from core.structures.situations import DiskFull
from core.tables import DecideTable, Events, EvolveTable
from events import kinds
from events.kinds import AnyEvent

if TYPE_CHECKING:
    from core.state import State

CHECKPOINTS_OF_SPACE = 2
"""Space for the next checkpoint, twice: it is written next to the ones that are kept before retention deletes one, and
it may be larger than those before it (another optimizer, other settings)."""

MARGIN_BYTES = 8 * 2**20
"""Space for everything but checkpoints: the journal between two of them and its reserve, a snapshot and a status file
next to the ones that they replace. Together far below this; and a disk with less space would soon be full again."""


class Disk(Struct, frozen=True):
    """The free space on the disk of the home."""

    full: DiskFull | None = None
    low: bool = False
    """Less is free than the soft limit ([disk] soft_gb; see `disk_limits.py`)."""


class AwaitDiskSpace(Effect, frozen=True, kw_only=True):
    """The disk is full: start nothing, measure the free space from time to time, and report it with
    `ReportDiskFree`."""

    wanted_bytes: int


def bytes_wanted(state: State) -> int:
    """Bytes that must be free before work resumes after the disk was full.

    The next checkpoint is judged by those that are kept; before the first one, its size is unknown.
    """
    largest = max((checkpoint.size_bytes for checkpoint in state.head.checkpoints), default=0)
    return CHECKPOINTS_OF_SPACE * largest + MARGIN_BYTES


def exhausted(state: State, message: str, wanted_bytes: int = 0) -> list[AnyEvent]:
    """Wait for `wanted_bytes`, or for what the next checkpoint may take if that is more."""
    if state.disk.full is not None:
        return []
    return [kinds.StorageExhausted(message=message, wanted_bytes=max(wanted_bytes, bytes_wanted(state)))]


def _report_disk_free(state: State, command: commands.ReportDiskFree, _now: float) -> Events:
    if state.disk.full is None or command.free_bytes < state.disk.full.wanted_bytes:
        return []
    return [kinds.StorageFreed(free_bytes=command.free_bytes)]


DECIDE: DecideTable = {commands.ReportDiskFree: _report_disk_free}


def _exhausted(state: State, event: kinds.StorageExhausted) -> State:
    return replace(state, disk=replace(state.disk, full=DiskFull(event.message, event.wanted_bytes)))


def _freed(state: State, event: kinds.StorageFreed) -> State:
    if state.disk.full is None:
        raise illegal(event, state.daemon.status, "the disk was not full")
    return replace(state, disk=replace(state.disk, full=None))


EVOLVE: EvolveTable = {
    kinds.StorageExhausted: _exhausted,
    kinds.StorageFreed: _freed,
}
