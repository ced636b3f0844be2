"""Where the head goes."""

from __future__ import annotations

from typing import Literal

from events.event import Event
from events.values import BackupId, CheckpointId, VersionId


class HeadMoved(Event, frozen=True, kw_only=True, tag="head_moved"):
    """A person chose what the next step starts from. Nothing is overwritten; the head can go back."""

    v: Literal[1] = 1
    version: VersionId | None
    """None: the origin."""
    checkpoint: CheckpointId | None
    """The checkpoint that was trained from the version; None: the version itself."""
    backup: BackupId | None
    """The backup that the checkpoint is restored from; None: it is in its place."""


class CheckpointRestored(Event, frozen=True, kw_only=True, tag="checkpoint_restored"):
    """The head is in its place again, copied from its backup and verified."""

    v: Literal[1] = 1
    checkpoint: CheckpointId
