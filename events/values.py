"""Small types that events share: ids, reasons, and numbers that survive JSON."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from msgspec import Meta

ARITHMETIC = "arithmetic"
"""The key of an attempt's environment for the precision that its steps are computed in."""

FP32_INSTEAD = "fp32 instead of bf16"
"""The value of that key if `precision = "bf16"` is configured and the processor is slow at it."""

KERNELS = "kernels"
"""The key of an attempt's environment for the kernels that its steps are computed with: names, separated by spaces."""

PLAIN_KERNELS = "plain"
"""The value of that key, and its meaning if there is none: the operations of torch and peft."""

JobId = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
"""The SHA-256 of the job's data file, in lower-case hexadecimal."""

CheckpointId = Annotated[str, Meta(pattern=r"^step-\d{8,}-attempt-\d{4,}$")]
"""The name of the directory in `checkpoints/`: the step that it holds and the attempt that wrote it."""

VersionId = Annotated[str, Meta(pattern=r"^v\d{3,}$")]
"""The name of the directory in `versions/`. Numbers are never given twice."""

BackupId = Annotated[str, Meta(pattern=r"^((manual|emergency|pre-change)-\d{4,}|before-v\d{3,}-attempt-\d{4,})$")]
"""The name of the directory in `backups/`; it says what kind of backup it is."""

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")

Dtype = Literal["float32", "bfloat16", "float16"]
"""Kinds of numbers that an exported model can have."""

Device = Literal["auto", "cpu", "cuda"]
"""Device that computes an answer. "auto": on the GPU if there is one and its memory allows, else on the CPU."""

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
"""Why an attempt failed; the cause decides what happens next.

`disk_full` passes when space is free; `storage` is a failing disk. `data`: the job's file is gone or has changed
(earlier keepsteps called that `storage` too). `loss`: loss or gradients are not finite, or spike; `driver`: the GPU or
its driver failed (earlier keepsteps called both `code`). `preflight`: there is too little disk space or memory to
start.
"""

CheckpointReason = Literal["steps", "time", "end", "yield"]

Suspicion = Literal["not_finite", "spike"]
"""Why a batch is suspect: its loss or a gradient is not finite, or the loss is far above those before it."""

Concern = Literal["gap", "wide_gap", "not_finite"]
"""Why a validation loss is of concern: it rises while it is far, or very far, above the training loss; or it is not
finite. Each is worse than the one before."""

CONCERNS: tuple[Concern, ...] = ("gap", "wide_gap", "not_finite")

NonFinite = Literal["NaN", "Infinity", "-Infinity"]

Number = float | NonFinite
"""JSON has no NaN and no infinity, and a loss may be either: they are written as words."""

BackupType = Literal["manual", "emergency", "pre-change"]
"""Why a person or the daemon makes a backup: by choice, after damage, or before a risky change."""

_BACKUP_ID = re.compile(r"(manual|emergency|pre-change)-\d{4,}|before-v\d{3,}-attempt-\d{4,}")
_CHECKPOINT_ID = re.compile(r"step-(\d{8,})-attempt-(\d{4,})")


def checkpoint_id(global_step: int, attempt: int) -> str:
    """The id of the checkpoint that `attempt` writes at `global_step`; no two attempts share an id."""
    return f"step-{global_step:08d}-attempt-{attempt:04d}"


def step_of(checkpoint: str) -> int:
    """The global step that a checkpoint holds, by its id. Raises ValueError for another name.

    >>> step_of("step-00000012-attempt-0003")
    12
    """
    found = _CHECKPOINT_ID.fullmatch(checkpoint)
    if found is None:
        raise ValueError(f"{checkpoint} is not the id of a checkpoint")
    return int(found[1])


def is_checkpoint_id(name: str) -> bool:
    """True if keepstep wrote a directory of this name (it must not touch any other)."""
    return _CHECKPOINT_ID.fullmatch(name) is not None


def version_id(number: int) -> str:
    """The id of the n-th version, from 1."""
    return f"v{number:03d}"


def is_version_id(name: str) -> bool:
    """True if a directory of this name in `versions/` is keepstep's."""
    return re.fullmatch(r"v\d{3,}", name) is not None


def backup_before(version: str, attempt: int) -> str:
    """The id of the backup that this attempt makes before `version`."""
    return f"before-{version}-attempt-{attempt:04d}"


def evaluation_of_version(version: str, attempt: int) -> str:
    """The id of the evaluation of a version by this attempt.

    >>> evaluation_of_version("v002", 5)
    'v002-attempt-0005'
    """
    return f"{version}-attempt-{attempt:04d}"


def evaluation_of_job(global_step: int, attempt: int) -> str:
    """The id of the evaluation at the end of a job.

    >>> evaluation_of_job(12, 3)
    'step-00000012-attempt-0003'
    """
    return checkpoint_id(global_step, attempt)


def is_results_file(name: str) -> bool:
    """True if keepstep wrote a file of this name in `evaluations/`."""
    return re.fullmatch(r"(v\d{3,}|step-\d{8,})-attempt-\d{4,}\.json", name) is not None


def is_backup_id(name: str) -> bool:
    """True if a directory of this name in `backups/` is keepstep's."""
    return _BACKUP_ID.fullmatch(name) is not None


def backup_type(name: str) -> str:
    """The type of a backup, by its id.

    >>> backup_type("pre-change-0003"), backup_type("before-v001-attempt-0005")
    ('pre-change', 'consolidation')
    """
    return "consolidation" if name.startswith("before-") else name.rpartition("-")[0]


def number(value: float) -> Number:
    """Convert `value` to the form in which it is journaled.

    >>> number(0.5), number(float("nan")), number(float("-inf"))
    (0.5, 'NaN', '-Infinity')
    """
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
