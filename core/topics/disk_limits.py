"""The limits in [disk]: below the soft one, delete what retention may delete; below the hard one, stop and wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from core import commands
from core.checks import illegal
from core.tables import DecideTable, Events, EvolveTable
from core.topics import attempts, consolidation, disk, retention
from events import kinds
from events.kinds import AnyEvent
from events.settings import RetentionSettings

if TYPE_CHECKING:
    from core.state import State

GB = 1_000_000_000

RECOVERED = 1.1
"""Times the limit: so a disk that hovers about the limit is not journaled with every file that somebody writes."""


def _measure_disk(state: State, command: commands.MeasureDisk, now: float) -> Events:
    """If the hard limit is lowered while the disk is full, wait for less."""
    free, soft, hard = command.free_bytes, command.disk.soft_gb * GB, command.disk.hard_gb * GB
    events: list[AnyEvent] = []
    if free < soft and not state.disk.low:
        events.append(kinds.StorageLow(free_bytes=free, wanted_bytes=int(soft)))
    if free >= soft * RECOVERED and state.disk.low:
        events.append(kinds.StorageRecovered(free_bytes=free))
    if free < soft:
        events += retention.prune(retention.checkpoints_to_prune(state.head.checkpoints, 1))
        tight = RetentionSettings(versions=command.retention.versions, backups=1, days=0.0)
        events += retention.enforce(state, tight, now)
    wanted, full = int(hard * RECOVERED), state.disk.full
    message = f"{free / GB:.2f} GB are free on the disk, less than [disk] hard_gb = {command.disk.hard_gb:g}"
    if full is None and free < hard:
        topic = consolidation if state.consolidation.running is not None else attempts
        report = commands.ReportDiskFull(message=message, wanted_bytes=wanted)
        events += topic.fail_for_full_disk(state, report, now)
    elif full is not None and (less := max(wanted, disk.bytes_wanted(state))) < full.wanted_bytes:
        events.append(kinds.StorageExhausted(message=message if free < hard else full.message, wanted_bytes=less))
    return events


DECIDE: DecideTable = {commands.MeasureDisk: _measure_disk}


def _low(state: State, event: kinds.StorageLow) -> State:
    if state.disk.low:
        raise illegal(event, state.daemon.status, "that is known already")
    return replace(state, disk=replace(state.disk, low=True))


def _recovered(state: State, event: kinds.StorageRecovered) -> State:
    if not state.disk.low:
        raise illegal(event, state.daemon.status, "disk space was not low")
    return replace(state, disk=replace(state.disk, low=False))


EVOLVE: EvolveTable = {
    kinds.StorageLow: _low,
    kinds.StorageRecovered: _recovered,
}
