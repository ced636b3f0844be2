"""The facts of what becomes of learned weights: consolidations, versions, where the head goes, and backups.

A part of `kinds.py`, which has the rules for all of them.
"""

from __future__ import annotations

from typing import Literal

from events.event import Event
from events.values import BackupId, CheckpointId, Failure, VersionId

BackupKind = Literal["manual", "pre_consolidation", "emergency"]
DeletedBy = Literal["person", "retention"]


class ConsolidationRequested(Event, frozen=True, kw_only=True, tag="consolidation_requested"):
    """What was learned is to become a version, as soon as nothing trains."""

    v: Literal[1] = 1
    description: str
    after_current: bool
    """Ahead of the files that wait; else behind them all."""
    night: str | None
    """The date (YYYY-MM-DD) of the schedule that asked; None: a person did."""


class ConsolidationCancelled(Event, frozen=True, kw_only=True, tag="consolidation_dropped"):
    """It is not wanted any more, or cannot be had."""

    v: Literal[1] = 1
    message: str


class ConsolidationStarted(Event, frozen=True, kw_only=True, tag="consolidation_started"):
    """A worker was told to merge. Until this attempt ends, nothing trains."""

    v: Literal[1] = 1
    attempt: int
    version: VersionId
    parent: VersionId | None
    """The version that was trained beside; None: the origin."""
    checkpoint: CheckpointId
    """What is merged: the head."""
    backup: BackupId


class ConsolidationBackedUp(Event, frozen=True, kw_only=True, tag="consolidation_backed_up"):
    """What is about to be replaced was copied and read back; `backup_created` stands before this."""

    v: Literal[1] = 1
    attempt: int


class ConsolidationMerged(Event, frozen=True, kw_only=True, tag="consolidation_merged"):
    """The weights of the version are written, under a name that nothing believes yet."""

    v: Literal[1] = 1
    attempt: int
    applied: float | None
    """How much of what was learned since the parent the stored weights moved: 1.0 is all. None: nothing was learned."""
    in_place: float | None
    """How much merging into the parent's rounded weights would have kept."""


class ConsolidationVerified(Event, frozen=True, kw_only=True, tag="consolidation_verified"):
    """They loaded again, and answer as what they were made of does."""

    v: Literal[1] = 1
    attempt: int
    difference: float
    """Of the logits, as a share of theirs."""
    tolerance: float


class VersionPublished(Event, frozen=True, kw_only=True, tag="version_published"):
    """This record is the publication: the directory counts from here on, and before it did not."""

    v: Literal[1] = 1
    attempt: int
    version: VersionId
    size_bytes: int
    manifest_sha256: str
    made_at: float
    """Unix time, seconds."""


class ConsolidationFinished(Event, frozen=True, kw_only=True, tag="consolidation_finished"):
    """The head is the new version, and the next step learns from there, anew."""

    v: Literal[1] = 1
    attempt: int
    version: VersionId


class ConsolidationAborted(Event, frozen=True, kw_only=True, tag="consolidation_aborted"):
    """The attempt ended before there was a version. It is still wanted, unless `consolidation_dropped` follows."""

    v: Literal[1] = 1
    attempt: int
    failure: Failure | None
    """As in `attempt_failed`; None: nothing failed, it was asked to make way or its daemon was gone."""
    message: str
    retry_at: float | None
    """Unix time, seconds: not before then."""


class HeadMoved(Event, frozen=True, kw_only=True, tag="head_moved"):
    """A person chose what the next step starts from. Nothing is overwritten, and the way back stays open."""

    v: Literal[1] = 1
    version: VersionId | None
    """None: the origin."""
    checkpoint: CheckpointId | None
    """What was learned beside it; None: nothing yet."""
    backup: BackupId | None
    """Where the checkpoint is brought back from; None: it is in its place."""


class CheckpointRestored(Event, frozen=True, kw_only=True, tag="checkpoint_restored"):
    """The head stands in its place again, copied from its backup and read back."""

    v: Literal[1] = 1
    checkpoint: CheckpointId


class VersionDeleted(Event, frozen=True, kw_only=True, tag="version_deleted"):
    """A version was given up. Journaled first, deleted after."""

    v: Literal[1] = 1
    version: VersionId
    size_bytes: int
    by: DeletedBy


class BackupCreated(Event, frozen=True, kw_only=True, tag="backup_created"):
    """A copy of a checkpoint stands in `backups/`, and was read back."""

    v: Literal[1] = 1
    backup: BackupId
    reason: str
    version: VersionId | None
    """What the checkpoint was trained beside; None: the origin."""
    checkpoint: CheckpointId
    job: str
    attempt: int
    global_step: int
    step: int
    checkpoint_bytes: int
    checkpoint_sha256: str
    """Of the checkpoint's manifest."""
    size_bytes: int
    manifest_sha256: str
    made_at: float
    """Unix time, seconds."""


class BackupDeleted(Event, frozen=True, kw_only=True, tag="backup_deleted"):
    """A backup was given up. Journaled first, deleted after."""

    v: Literal[1] = 1
    backup: BackupId
    size_bytes: int
    by: DeletedBy


AnyOfVersions = (
    ConsolidationRequested
    | ConsolidationCancelled
    | ConsolidationStarted
    | ConsolidationBackedUp
    | ConsolidationMerged
    | ConsolidationVerified
    | VersionPublished
    | ConsolidationFinished
    | ConsolidationAborted
    | HeadMoved
    | CheckpointRestored
    | VersionDeleted
    | BackupCreated
    | BackupDeleted
)
