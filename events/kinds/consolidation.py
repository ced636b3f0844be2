"""Consolidations: requested, run step by step, and published as a version."""

from __future__ import annotations

from typing import Literal

from events.event import Event
from events.settings import Gate
from events.values import BackupId, CheckpointId, Failure, VersionId


class ConsolidationRequested(Event, frozen=True, kw_only=True, tag="consolidation_requested"):
    """A consolidation was requested; it starts as soon as nothing trains."""

    v: Literal[2] = 2
    description: str
    after_current: bool
    """Before the files that wait; else after all of them."""
    scheduled_for: str | None
    """The date (YYYY-MM-DD) of the schedule that asked; None: a person asked."""


class ConsolidationCancelled(Event, frozen=True, kw_only=True, tag="consolidation_cancelled"):
    """A person cancelled the request, or it cannot be carried out."""

    v: Literal[1] = 1
    message: str


class ConsolidationStarted(Event, frozen=True, kw_only=True, tag="consolidation_started"):
    """A worker was asked to merge. Nothing trains until this attempt ends."""

    v: Literal[2] = 2
    attempt: int
    version: VersionId
    parent: VersionId | None
    """The version that the head was trained from; None: the origin."""
    checkpoint: CheckpointId
    """The head, which is merged."""
    backup: BackupId
    gate: Gate | None = None
    """[versions] gate: what its evaluation decides. None: it is not evaluated, and the head moves to it."""


class ConsolidationBackedUp(Event, frozen=True, kw_only=True, tag="consolidation_backed_up"):
    """The head was copied and verified; `backup_created` stands before this."""

    v: Literal[1] = 1
    attempt: int


class ConsolidationMerged(Event, frozen=True, kw_only=True, tag="consolidation_merged"):
    """The weights of the version are written, in a directory that does not count yet."""

    v: Literal[1] = 1
    attempt: int
    applied: float | None
    """Share of the training since the parent that the stored weights hold: 1.0 is all. None: nothing was trained."""
    in_place: float | None
    """The share that merging into the parent's rounded weights would have kept."""


class ConsolidationVerified(Event, frozen=True, kw_only=True, tag="consolidation_verified"):
    """The merged weights load, and give the logits of what they were merged from."""

    v: Literal[1] = 1
    attempt: int
    difference: float
    """Largest difference of the logits, relative to the logits."""
    tolerance: float


class VersionPublished(Event, frozen=True, kw_only=True, tag="version_published"):
    """This record is the publication: the version directory counts from here on."""

    v: Literal[1] = 1
    attempt: int
    version: VersionId
    size_bytes: int
    manifest_sha256: str
    made_at: float
    """Unix time, seconds."""


class ConsolidationFinished(Event, frozen=True, kw_only=True, tag="consolidation_finished"):
    """The version is there, and the attempt ends."""

    v: Literal[2] = 2
    attempt: int
    version: VersionId
    promoted: bool = True
    """True: it is the base now, and the next step starts from it. False: the head stays until `version_promoted`."""


class ConsolidationAborted(Event, frozen=True, kw_only=True, tag="consolidation_aborted"):
    """The attempt ended without a version. The request stands, unless `consolidation_cancelled` follows."""

    v: Literal[1] = 1
    attempt: int
    failure: Failure | None
    """As in `attempt_failed`; None: nothing failed, it was asked to yield or its daemon was gone."""
    message: str
    retry_at: float | None
    """No retry before this time. Unix time, seconds."""
