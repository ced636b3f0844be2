"""Trained artifacts, as the state machine knows them: checkpoints, versions and backups."""

from __future__ import annotations

from msgspec import Struct, field

from events.settings import MethodSettings, ModelSettings


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


class WeightSettings(Struct, frozen=True):
    """The settings that trained weights depend on: under another model or method the weights are useless."""

    model: ModelSettings
    method: MethodSettings
    max_length: int = 0
    """Tokens that examples were cut to; 0: unknown."""


class Version(Struct, frozen=True, kw_only=True):
    """A published model."""

    id: str
    parent: str | None
    """The version that its weights were trained from; None: the origin."""
    checkpoint: str
    """The checkpoint that was merged into it."""
    global_step: int
    description: str
    made_at: float
    """Unix time, seconds."""
    size_bytes: int
    manifest_sha256: str
    weight_settings: WeightSettings = field(name="meaning")
    applied: float | None
    in_place: float | None
    difference: float


class DetachedCheckpoint(Struct, frozen=True, kw_only=True):
    """A checkpoint that the head has moved away from."""

    base: str | None
    checkpoint: Checkpoint
    weight_settings: WeightSettings = field(name="meaning")


class Backup(Struct, frozen=True, kw_only=True):
    """A copy of a checkpoint in `backups/`, verified when it was made."""

    id: str
    reason: str
    held: DetachedCheckpoint
    size_bytes: int
    manifest_sha256: str
    made_at: float
    """Unix time, seconds."""
