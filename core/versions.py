"""What was learned, as the machine knows it: checkpoints, versions, backups, and the consolidation that runs."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from events.settings import MethodSettings, ModelSettings

ConsolidationStatus = Literal["started", "backed_up", "merged", "verified", "published", "finished", "aborted"]


class Checkpoint(Struct, frozen=True, kw_only=True):
    """A committed checkpoint that is still on disk."""

    id: str
    job: str
    attempt: int
    global_step: int
    step: int
    parent: str | None
    size_bytes: int
    manifest_sha256: str


class Meaning(Struct, frozen=True):
    """What the numbers in a checkpoint mean: under another base or another method they mean nothing."""

    model: ModelSettings
    method: MethodSettings
    max_length: int = 0
    """Tokens that examples were cut to; 0: not known."""


class Version(Struct, frozen=True, kw_only=True):
    """A published model."""

    id: str
    parent: str | None
    """The version whose weights were trained beside; None: the origin."""
    checkpoint: str
    """What was merged into it."""
    global_step: int
    description: str
    made_at: float
    """Unix time, seconds."""
    size_bytes: int
    manifest_sha256: str
    meaning: Meaning
    applied: float | None
    in_place: float | None
    difference: float


class DetachedCheckpoint(Struct, frozen=True, kw_only=True):
    """A checkpoint that the head was moved away from."""

    base: str | None
    checkpoint: Checkpoint
    meaning: Meaning


class Backup(Struct, frozen=True, kw_only=True):
    """A copy of a checkpoint in `backups/`, that was read back when it was made."""

    id: str
    reason: str
    held: DetachedCheckpoint
    size_bytes: int
    manifest_sha256: str
    made_at: float
    """Unix time, seconds."""


class ConsolidationRequest(Struct, frozen=True, kw_only=True):
    """A consolidation that is wanted."""

    description: str
    after_current: bool
    failures: int = 0
    retry_at: float | None = None


class Consolidation(Struct, frozen=True, kw_only=True):
    """The one that runs. Its attempt is `State.attempt`."""

    status: ConsolidationStatus
    version: str
    parent: str | None
    checkpoint: str
    backup: str
    applied: float | None = None
    in_place: float | None = None
    difference: float = 0.0
