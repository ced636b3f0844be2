"""Retention: which checkpoints, versions and backups stay on disk, and which are deleted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from core import commands
from core.checks import illegal
from core.errors import Refused
from core.tables import DecideTable, Events, EvolveTable
from core.topics import head
from core.topics.recovery import forgotten
from core.values import Backup, Checkpoint, DetachedCheckpoint, Version
from events import kinds, messages
from events.kinds import DeletedBy
from events.settings import RetentionSettings

if TYPE_CHECKING:
    from core.state import State

DAY_S = 86_400.0


class Retention(Struct, frozen=True, kw_only=True, gc=False):
    """Versions and backups on disk."""

    versions: tuple[Version, ...] = ()
    """Every version in `versions/`, in the order in which they were made."""
    versions_made: int = 0
    """Numbers of versions are never given twice."""
    backups: tuple[Backup, ...] = ()
    """Every backup in `backups/`, in the order in which they were made."""
    backups_made: int = 0

    def version(self, version_id: str | None) -> Version | None:
        """The version of this id, if it still exists."""
        return next((version for version in self.versions if version.id == version_id), None)

    def backup(self, backup_id: str | None) -> Backup | None:
        """The backup of this id, if it still exists."""
        return next((backup for backup in self.backups if backup.id == backup_id), None)


# -- policy ---------------------------------------------------------------------------------------------------------


def checkpoints_to_prune(
    checkpoints: Sequence[Checkpoint], keep: int, every_steps: int = 0, begin: int = 0
) -> Sequence[Checkpoint]:
    """Checkpoints that retention deletes, the oldest first: all but the newest `keep`, and never the head.

    With `every_steps`, the first one at or after each multiple of it stays too. `begin` is the global step that the
    branch begins at. (One that a quarantine made the first of its multiple was kept already, or is young.)
    """
    milestones, last = set(), begin
    for checkpoint in checkpoints:
        if every_steps and checkpoint.global_step // every_steps > last // every_steps:
            milestones.add(checkpoint.id)
        last = checkpoint.global_step
    older = checkpoints[: max(0, len(checkpoints) - max(1, keep))]
    return [checkpoint for checkpoint in older if checkpoint.id not in milestones]


def versions_to_delete(state: State, keep: int) -> Sequence[Version]:
    """Versions that retention deletes, the oldest first: all but the newest `keep` (0: none is deleted), and never a
    version that the head or a detached checkpoint was trained from, that is held, or that an evaluation needs. Later
    versions hold everything that a deleted one held; a held one does not count as later."""
    if keep == 0:
        return ()
    held = {each.version for each in state.evaluations.held}
    versions = [each for each in state.retention.versions if each.id not in held]
    needed = {state.head.base, *(detached.base for detached in state.head.detached), *_evaluated(state)}
    return [version for version in versions[: max(0, len(versions) - keep)] if version.id not in needed]


def _evaluated(state: State) -> set[str | None]:
    """The versions that are to be evaluated, and their parents, which they are compared with."""
    pending = {each.version for each in state.evaluations.pending}
    return {*pending, *(each.parent for each in state.retention.versions if each.id in pending)}


def backups_to_delete(state: State, *, keep: int, days: float, now: float) -> Sequence[Backup]:
    """Backups older than `days`, the oldest first; the newest `keep`, at least one, stay."""
    old, backups = now - days * DAY_S, state.retention.backups
    older = backups[: max(0, len(backups) - max(1, keep))]
    return [backup for backup in older if backup.made_at <= old and backup.id != state.head.pending_restore]


def why_version_stays(state: State, version: Version) -> str | None:
    """The reason why this version cannot be deleted; None if it can."""
    if version.id == state.head.base:
        return "the head was trained from it; `keepstep versions restore` another one first"
    running = state.evaluations.running
    if running is not None and version.id in {running.version, running.parent}:
        return f"the evaluation of {running.version} is running; wait, or `keepstep pause` first"
    for each in state.retention.versions:
        if each.parent == version.id:
            return f"{each.id} was built on it; delete that one first"
    for detached in state.head.detached:
        if detached.base == version.id:
            return f"{detached.checkpoint.id} was trained from it and is in no version; delete that one first"
    return None


def prune(checkpoints: Iterable[Checkpoint]) -> Events:
    """The events that prune these checkpoints."""
    return [kinds.CheckpointPruned(checkpoint=each.id, size_bytes=each.size_bytes) for each in checkpoints]


def _delete_versions(versions: Iterable[Version], by: DeletedBy) -> Events:
    return [kinds.VersionDeleted(version=each.id, size_bytes=each.size_bytes, by=by) for each in versions]


def _delete_backups(backups: Iterable[Backup], by: DeletedBy) -> Events:
    return [kinds.BackupDeleted(backup=each.id, size_bytes=each.size_bytes, by=by) for each in backups]


def enforce(state: State, wanted: RetentionSettings, now: float) -> Events:
    """Delete the versions and backups that the config does not want to keep."""
    return [
        *_delete_versions(versions_to_delete(state, wanted.versions), "retention"),
        *_delete_backups(backups_to_delete(state, keep=wanted.backups, days=wanted.days, now=now), "retention"),
    ]


# -- commands -------------------------------------------------------------------------------------------------------


def _retain(state: State, command: commands.Retain, now: float) -> Events:
    return enforce(state, command.retention, now)


def _prune_checkpoints(state: State, command: commands.PruneCheckpoints, _now: float) -> Events:
    pruned = checkpoints_to_prune(state.head.checkpoints, command.keep)
    if not pruned:
        count = len(state.head.checkpoints)
        raise Refused(f"there is nothing to prune: {count} checkpoints are kept, including the head")
    return prune(pruned)


def delete_version(state: State, command: commands.DeleteVersion, _now: float) -> Events:
    """Delete a version or a detached checkpoint. Raises Refused."""
    for detached in state.head.detached:
        if detached.checkpoint.id == command.version:
            return prune([detached.checkpoint])
    version = state.retention.version(command.version)
    if version is None:
        raise Refused(f"there is no version {command.version}: `keepstep versions list --all`")
    reason = why_version_stays(state, version)
    if reason is not None:
        raise Refused(f"{version.id} stays: {reason}")
    return _delete_versions([version], "person")


def _record_backup(state: State, command: commands.RecordBackup, now: float) -> Events:
    held = command.held
    is_of_the_branch = held.base == state.head.base and state.head.weight_settings is not None
    if not is_of_the_branch and head.find_checkpoint(state, held.checkpoint.id) is None:  # a branch may be pruned
        raise Refused(f"{held.checkpoint.id} was deleted while it was copied, because the head had moved away from it")
    return [backup_created(held.base, held.checkpoint, command, command.reason, command.backup, now)]


def backup_created(
    base: str | None,
    checkpoint: Checkpoint,
    written: commands.RecordBackup | messages.BackedUp,
    reason: str,
    backup: str,
    now: float,
) -> kinds.BackupCreated:
    """The event for a backup of a checkpoint that was trained from `base`."""
    return kinds.BackupCreated(
        backup=backup,
        reason=reason,
        base=base,
        checkpoint=checkpoint.id,
        job=checkpoint.job,
        attempt=checkpoint.attempt,
        global_step=checkpoint.global_step,
        step=checkpoint.step,
        checkpoint_bytes=checkpoint.size_bytes,
        checkpoint_sha256=checkpoint.manifest_sha256,
        size_bytes=written.size_bytes,
        manifest_sha256=written.manifest_sha256,
        made_at=now,
    )


def _delete_old_backups(state: State, command: commands.DeleteBackups, now: float) -> Events:
    deleted = backups_to_delete(state, keep=1, days=command.older_than_days, now=now)
    if not deleted:
        days = f"{command.older_than_days:g} days"
        raise Refused(f"no backup is older than {days} and can be deleted (the newest one always stays)")
    return _delete_backups(deleted, "person")


DECIDE: DecideTable = {
    commands.Retain: _retain,
    commands.PruneCheckpoints: _prune_checkpoints,
    commands.DeleteVersion: delete_version,
    commands.RecordBackup: _record_backup,
    commands.DeleteBackups: _delete_old_backups,
}


# -- events ---------------------------------------------------------------------------------------------------------


def _checkpoint_pruned(state: State, event: kinds.CheckpointPruned) -> State:
    checkpoints = state.head.checkpoints
    detached = tuple(each for each in state.head.detached if each.checkpoint.id != event.checkpoint)
    if len(detached) < len(state.head.detached):
        return replace(state, head=replace(state.head, detached=detached))
    kept = state.head.without(event.checkpoint)
    if len(kept) == len(checkpoints) or checkpoints[-1].id == event.checkpoint:
        raise illegal(event, "pruning", f"{event.checkpoint} is not a checkpoint before the head")
    pruned = replace(state, head=replace(state.head, checkpoints=kept))
    return forgotten(pruned) if checkpoints[0].id == event.checkpoint else pruned


def _version_deleted(state: State, event: kinds.VersionDeleted) -> State:
    retention = state.retention
    version, running = retention.version(event.version), state.evaluations.running
    is_used = event.version == state.head.base or (running is not None and event.version == running.version)
    if version is None or is_used:
        raise illegal(event, state.daemon.status, f"{event.version} is not a version that can be deleted")
    versions = tuple(each for each in retention.versions if each.id != event.version)
    evaluations = state.evaluations.deleted(version)
    return replace(state, retention=replace(retention, versions=versions), evaluations=evaluations)


def _backup_created(state: State, event: kinds.BackupCreated) -> State:
    retention = state.retention
    if retention.backup(event.backup) is not None:
        raise illegal(event, state.daemon.status, f"there is a backup {event.backup} already")
    kept = head.find_checkpoint(state, event.checkpoint)
    weight_settings = kept.weight_settings if kept is not None else state.head.weight_settings  # pruned since
    if weight_settings is None:
        raise illegal(event, state.daemon.status, f"{event.checkpoint} was deleted")
    checkpoint = Checkpoint(
        id=event.checkpoint,
        job=event.job,
        attempt=event.attempt,
        global_step=event.global_step,
        step=event.step,
        parent=None,
        size_bytes=event.checkpoint_bytes,
        manifest_sha256=event.checkpoint_sha256,
    )
    backup = Backup(
        id=event.backup,
        reason=event.reason,
        held=DetachedCheckpoint(base=event.base, checkpoint=checkpoint, weight_settings=weight_settings),
        size_bytes=event.size_bytes,
        manifest_sha256=event.manifest_sha256,
        made_at=event.made_at,
    )
    backups = (*retention.backups, backup)
    return replace(state, retention=replace(retention, backups=backups, backups_made=retention.backups_made + 1))


def _backup_deleted(state: State, event: kinds.BackupDeleted) -> State:
    retention = state.retention
    if retention.backup(event.backup) is None or event.backup == state.head.pending_restore:
        raise illegal(event, state.daemon.status, f"{event.backup} is not a backup that can be deleted")
    backups = tuple(each for each in retention.backups if each.id != event.backup)
    return replace(state, retention=replace(retention, backups=backups))


EVOLVE: EvolveTable = {
    kinds.CheckpointPruned: _checkpoint_pruned,
    kinds.VersionDeleted: _version_deleted,
    kinds.BackupCreated: _backup_created,
    kinds.BackupDeleted: _backup_deleted,
}
