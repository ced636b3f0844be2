"""Small vocabulary that every event shares: ids, and numbers that survive JSON."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from msgspec import Meta

ARITHMETIC = "arithmetic"
"""The name under which the environment of an attempt records what its steps are computed in."""

FP32_INSTEAD = "fp32 instead of bf16"
"""The recorded value where `precision = "bf16"` is asked for and the processor is slow at it."""

JobId = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
"""A job is known by the SHA-256 of its data file, in lower-case hexadecimal."""

CheckpointId = Annotated[str, Meta(pattern=r"^step-\d{8,}-attempt-\d{4,}$")]
"""Names the directory below `checkpoints/`: the step it holds and the attempt that wrote it."""

VersionId = Annotated[str, Meta(pattern=r"^v\d{3,}$")]
"""Names the directory below `versions/`. Numbers are never given twice."""

BackupId = Annotated[str, Meta(pattern=r"^((manual|emergency)-\d{4,}|before-v\d{3,}-attempt-\d{4,})$")]
"""Names the directory below `backups/`, and says what kind of backup it is."""

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")

Failure = Literal[
    "model",
    "out_of_memory",
    "disk_full",
    "storage",
    "data",
    "checkpoint",
    "plan",
    "hang",
    "killed",
    "code",
    "loss",
    "preflight",
    "driver",
]
"""Why an attempt ended by itself: whose fault it was decides what happens next.

`disk_full` is nobody's, and passes when there is room; `storage` is a disk that fails. `data`: the job's file is gone
or has changed (earlier keepsteps called that `storage` too). `loss`: the numbers ran away; `driver`: the GPU, or what
drives it, failed (earlier keepsteps called both `code`). `preflight`: there is too little room or memory to begin.
"""

NonFinite = Literal["NaN", "Infinity", "-Infinity"]

Number = float | NonFinite
"""JSON has no NaN and no infinity, and a loss may be either: those three are written as words."""

_BACKUP_ID = re.compile(r"(manual|emergency)-\d{4,}|before-v\d{3,}-attempt-\d{4,}")
_CHECKPOINT_ID = re.compile(r"step-(\d{8,})-attempt-(\d{4,})")


def checkpoint_id(global_step: int, attempt: int) -> str:
    """The name of the checkpoint that `attempt` writes at `global_step`; no two attempts share a name."""
    return f"step-{global_step:08d}-attempt-{attempt:04d}"


def is_checkpoint_id(name: str) -> bool:
    """Whether a directory of this name was written by keepstep (anything else there is not ours to touch)."""
    return _CHECKPOINT_ID.fullmatch(name) is not None


def version_id(number: int) -> str:
    """The name of the n-th version, from 1."""
    return f"v{number:03d}"


def is_version_id(name: str) -> bool:
    """Whether a directory of this name below `versions/` is keepstep's."""
    return re.fullmatch(r"v\d{3,}", name) is not None


def backup_before(version: str, attempt: int) -> str:
    """The name of the backup that is made before `version`, by this attempt at it."""
    return f"before-{version}-attempt-{attempt:04d}"


def is_backup_id(name: str) -> bool:
    """Whether a directory of this name below `backups/` is keepstep's."""
    return _BACKUP_ID.fullmatch(name) is not None


def number(value: float) -> Number:
    """The form in which `value` is journaled.

    >>> number(0.5), number(float("nan")), number(float("-inf"))
    (0.5, 'NaN', '-Infinity')
    """
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
