"""What is kept and what the next step starts from: commands in, events out. A part of `decide`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import asdict

from core import commands, policies
from core.consolidate import run_out_of_space
from core.errors import Refused
from core.heads import kept_as
from core.state import State
from events import kinds, versions
from events.kinds import AnyEvent
from events.settings import RetentionSettings
from events.upkeep import OrphanEnded, WatchCostMeasured

Events = Sequence[AnyEvent]

GB = 1_000_000_000

RECOVERED = 1.1
"""Times the limit: a disk that hovers about it is not journaled with every file that somebody writes."""


def _move_head(state: State, command: commands.MoveHead, _now: float) -> Events:
    """To a version, the origin, a checkpoint that was left behind, or what a backup holds."""
    if state.attempt is not None:
        raise Refused("something runs; `keepstep pause` first, or wait")
    if state.begun:
        raise Refused(
            f"{state.begun[0].name} is learned in part: let it end, or `keepstep skip` it, and then try again"
        )
    backup = state.backup(command.backup)
    if command.backup is not None and backup is None:
        raise Refused(f"there is no backup {command.backup}")
    base, checkpoint = command.version, command.checkpoint
    if backup is not None:
        base, checkpoint = backup.held.base, backup.held.checkpoint.id
    elif checkpoint is not None:
        held = next((each for each in state.left if each.checkpoint.id == checkpoint), None)
        if held is None:
            raise Refused(f"{checkpoint} is no checkpoint that was left behind: `keepstep versions list --all`")
        base = held.base
    if base is not None and state.version(base) is None:
        raise Refused(f"there is no version {base}" + (", which that was trained beside" if checkpoint else ""))
    if (base, checkpoint) == (state.base, state.head.id if state.head is not None else None):
        raise Refused("the head stands there already")
    in_place = checkpoint is not None and checkpoint in {each.checkpoint.id for each in state.left}
    moved = versions.HeadMoved(
        version=base, checkpoint=checkpoint, backup=command.backup if backup is not None and not in_place else None
    )
    dropped = (
        [versions.ConsolidationCancelled(message="the head was moved")]
        if state.consolidation_request is not None
        else []
    )
    # Of what is left behind, its newest is enough to go back to it.
    older = [each for each in state.checkpoints[:-1] if each.id != checkpoint]
    pruned = [kinds.CheckpointPruned(checkpoint=each.id, size_bytes=each.size_bytes) for each in older]
    return [*dropped, moved, *pruned]


def _roll_back(state: State, _command: commands.RollBack, now: float) -> Events:
    """Behind what was learned since the version that the head stands on; if that is nothing, to the one before it."""
    target = state.base
    if state.head is None:
        version = state.version(state.base)
        if version is None:
            raise Refused("the head is the origin: there is nothing to roll back")
        target = version.parent
    return _move_head(state, commands.MoveHead(version=target), now)


def _record_restored(state: State, command: commands.RecordRestored, _now: float) -> Events:
    if state.fetch is None or state.head is None:
        return []
    del command
    return [versions.CheckpointRestored(checkpoint=state.head.id)]


def _delete_version(state: State, command: commands.DeleteVersion, _now: float) -> Events:
    for left in state.left:
        if left.checkpoint.id == command.version:
            return [kinds.CheckpointPruned(checkpoint=left.checkpoint.id, size_bytes=left.checkpoint.size_bytes)]
    version = state.version(command.version)
    if version is None:
        raise Refused(f"there is no version {command.version}: `keepstep versions list --all`")
    reason = policies.why_version_stays(state, version)
    if reason is not None:
        raise Refused(f"{version.id} stays: {reason}")
    return [versions.VersionDeleted(version=version.id, size_bytes=version.size_bytes, by="person")]


def _record_backup(state: State, command: commands.RecordBackup, now: float) -> Events:
    held = command.held
    is_of_the_branch = held.base == state.base and state.meaning is not None  # retention may have given it up since
    if not is_of_the_branch and kept_as(state, held.checkpoint.id) is None:
        raise Refused(f"the head was moved away from {held.checkpoint.id}, and it was given up, while it was copied")
    return [
        versions.BackupCreated(
            backup=command.backup,
            reason=command.reason,
            version=held.base,
            checkpoint=held.checkpoint.id,
            job=held.checkpoint.job,
            attempt=held.checkpoint.attempt,
            global_step=held.checkpoint.global_step,
            step=held.checkpoint.step,
            checkpoint_bytes=held.checkpoint.size_bytes,
            checkpoint_sha256=held.checkpoint.manifest_sha256,
            size_bytes=command.size_bytes,
            manifest_sha256=command.manifest_sha256,
            made_at=now,
        )
    ]


def _delete_backups(state: State, command: commands.DeleteBackups, now: float) -> Events:
    abandoned = policies.backups_to_delete(state, keep=1, days=command.older_than_days, now=now)
    if not abandoned:
        raise Refused(f"no backup is older than {command.older_than_days:g} days and could go (the newest one stays)")
    return [versions.BackupDeleted(backup=each.id, size_bytes=each.size_bytes, by="person") for each in abandoned]


def _retain(state: State, command: commands.Retain, now: float) -> Events:
    """What retention gives up, by the config."""
    wanted = command.retention
    return [
        *(
            versions.VersionDeleted(version=each.id, size_bytes=each.size_bytes, by="retention")
            for each in policies.versions_to_delete(state, wanted.versions)
        ),
        *(
            versions.BackupDeleted(backup=each.id, size_bytes=each.size_bytes, by="retention")
            for each in policies.backups_to_delete(state, keep=wanted.backups, days=wanted.days, now=now)
        ),
    ]


def _measure_room(state: State, command: commands.MeasureDisk, now: float) -> Events:
    """Below the soft limit, give up what may be given up; below the hard one, end what runs and wait for room (for
    less, if the limit is lowered meanwhile)."""
    free, soft, hard = command.free_bytes, command.disk.soft_gb * GB, command.disk.hard_gb * GB
    events: list[AnyEvent] = []
    if free < soft and not state.low:
        events.append(kinds.StorageLow(free_bytes=free, wanted_bytes=int(soft)))
    if free >= soft * RECOVERED and state.low:
        events.append(kinds.StorageRecovered(free_bytes=free))
    if free < soft:
        events += [
            kinds.CheckpointPruned(checkpoint=each.id, size_bytes=each.size_bytes)
            for each in policies.checkpoints_to_prune(state.checkpoints, 1)
        ]
        tight = RetentionSettings(versions=command.retention.versions, backups=1, days=0.0)
        events += _retain(state, commands.Retain(retention=tight), now)
    wanted = int(hard * RECOVERED)
    message = f"{free / GB:.2f} GB are free on the disk, and hard_gb in [disk] wants {command.disk.hard_gb:g} left"
    if state.full is None and free < hard:
        events += run_out_of_space(state, commands.ReportDiskFull(message=message, wanted_bytes=wanted), now)
    elif state.full is not None and (less := max(wanted, policies.room_wanted(state))) < state.full.wanted_bytes:
        message = message if free < hard else state.full.message
        events.append(kinds.StorageExhausted(message=message, wanted_bytes=less))
    return events


def _record_orphan(_state: State, command: commands.RecordOrphan, _now: float) -> Events:
    return [OrphanEnded(**asdict(command))]


def _record_watch_cost(_state: State, command: commands.RecordWatchCost, _now: float) -> Events:
    return [WatchCostMeasured(**asdict(command))]


KEEPING: Mapping[type, Callable[[State, Any, float], Events]] = {
    commands.MoveHead: _move_head,
    commands.RollBack: _roll_back,
    commands.RecordRestored: _record_restored,
    commands.DeleteVersion: _delete_version,
    commands.RecordBackup: _record_backup,
    commands.DeleteBackups: _delete_backups,
    commands.Retain: _retain,
    commands.MeasureDisk: _measure_room,
    commands.RecordOrphan: _record_orphan,
    commands.RecordWatchCost: _record_watch_cost,
}
