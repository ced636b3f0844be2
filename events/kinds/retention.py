"""Checkpoints, versions and backups: created and deleted."""

from __future__ import annotations

from typing import Literal

from events.event import Event
from events.values import BackupId, CheckpointId, VersionId

DeletedBy = Literal["person", "retention"]


class CheckpointPruned(Event, frozen=True, kw_only=True, tag="checkpoint_pruned"):
    """Retention deletes this checkpoint. Journaled first, deleted then: a crash between leaves leftover files, never a
    gap."""

    v: Literal[2] = 2
    checkpoint: CheckpointId
    size_bytes: int
    """Bytes freed."""


class VersionDeleted(Event, frozen=True, kw_only=True, tag="version_deleted"):
    """A version is deleted. Journaled first, deleted then."""

    v: Literal[1] = 1
    version: VersionId
    size_bytes: int
    by: DeletedBy


class BackupCreated(Event, frozen=True, kw_only=True, tag="backup_created"):
    """A copy of a checkpoint is in `backups/`, and was verified."""

    v: Literal[2] = 2
    backup: BackupId
    reason: str
    base: VersionId | None
    """The version that the checkpoint was trained from; None: the origin."""
    checkpoint: CheckpointId
    job: str
    attempt: int
    global_step: int
    step: int
    checkpoint_bytes: int
    checkpoint_sha256: str
    """SHA-256 of the checkpoint's manifest."""
    size_bytes: int
    manifest_sha256: str
    made_at: float
    """Unix time, seconds."""


class BackupDeleted(Event, frozen=True, kw_only=True, tag="backup_deleted"):
    """A backup is deleted. Journaled first, deleted then."""

    v: Literal[1] = 1
    backup: BackupId
    size_bytes: int
    by: DeletedBy
