"""The limits in [disk]: below the soft one, delete what retention may delete; below the hard one, stop and wait.

The limit "auto" follows from the sizes of what the home has: its largest checkpoint, version and backup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from core import commands
from core.checks import illegal
from core.tables import DecideTable, Events, EvolveTable
from core.topics import disk, retention
from core.topics.running import running_topic
from events import kinds
from events.kinds import AnyEvent
from events.settings import DiskSettings, RetentionSettings

if TYPE_CHECKING:
    from core.state import State

GB = 1_000_000_000

RECOVERED = 1.1
"""Times the limit: so a disk that hovers about the limit is not journaled with every file that somebody writes."""


SOFT_SHARE = 0.05
"""The least that the soft limit "auto" leaves free, as a share of the disk: file systems slow down when they are nearly
full, and other programs need space too."""


class LimitsInBytes(NamedTuple):
    """The limits of [disk], bytes."""

    soft: int
    hard: int


def limits_in_bytes(state: State, limits: DiskSettings, *, total_bytes: int, model_bytes: int) -> LimitsInBytes:
    """The limits of [disk] in bytes; "auto" is computed from the sizes of what the home has."""
    checkpoint = max((each.size_bytes for each in state.head.checkpoints), default=0) + disk.MARGIN_BYTES
    version = max((each.size_bytes for each in state.retention.versions), default=model_bytes)
    backup = max((each.size_bytes for each in state.retention.backups), default=checkpoint)
    soft = max(checkpoint + version + backup, int(SOFT_SHARE * total_bytes))
    return LimitsInBytes(
        soft if limits.soft_gb == "auto" else int(limits.soft_gb * GB),
        checkpoint if limits.hard_gb == "auto" else int(limits.hard_gb * GB),
    )


def _measure_disk(state: State, command: commands.MeasureDisk, now: float) -> Events:
    """If the hard limit is lowered while the disk is full, wait for less."""
    free = command.free_bytes
    soft, hard = limits_in_bytes(state, command.disk, total_bytes=command.total_bytes, model_bytes=command.model_bytes)
    events: list[AnyEvent] = []
    if free < soft and not state.disk.low:
        events.append(kinds.StorageLow(free_bytes=free, wanted_bytes=soft))
    if free >= soft * RECOVERED and state.disk.low:
        events.append(kinds.StorageRecovered(free_bytes=free))
    if free < soft:
        events += retention.prune(retention.checkpoints_to_prune(state.head.checkpoints, 1))
        tight = RetentionSettings(versions=command.retention.versions, backups=1, days=0.0)
        events += retention.enforce(state, tight, now)
    wanted, full = int(hard * RECOVERED), state.disk.full
    limit = f'"auto" ({hard / GB:.2f} GB)' if command.disk.hard_gb == "auto" else f"{command.disk.hard_gb:g}"
    message = f"{free / GB:.2f} GB are free on the disk, less than [disk] hard_gb = {limit}"
    if full is None and free < hard:
        report = commands.ReportDiskFull(message=message, wanted_bytes=wanted)
        events += running_topic(state).fail_for_full_disk(state, report, now)
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
