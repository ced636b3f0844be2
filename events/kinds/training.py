"""A running job: prepared, started, trained step by step, and committed."""

from __future__ import annotations

from typing import Literal

from events.event import Event
from events.settings import Plan
from events.trained import Trained
from events.values import CheckpointId, CheckpointReason, JobId, Number


class JobPrepared(Event, frozen=True, kw_only=True, tag="job_prepared"):
    """Every row is read and tokenized, and the batches are planned."""

    v: Literal[2] = 2
    job: JobId
    attempt: int
    plan: Plan


class TrainingStarted(Event, frozen=True, kw_only=True, tag="training_started"):
    """Model, weights and optimizer are loaded. The next step is `global_step` + 1, and `step` + 1 of this job."""

    v: Literal[2] = 2
    job: JobId
    attempt: int
    global_step: int
    step: int
    checkpoint: CheckpointId | None
    environment: dict[str, str]
    """Everything that decides the bits: library versions, device, threads, CPU capability."""
    changed: tuple[str, ...]
    """Differences from the environment of the last training: bits may differ from here on, and this says why."""
    trained: Trained | None = None
    """The trained part of the model; None in records of version 1."""


class StepReached(Event, frozen=True, kw_only=True, tag="step_reached"):
    """One optimizer step. Its loss and gradient norm prove that a step that runs again is the same step.

    A step whose batch is skipped keeps its number and changes nothing: it has loss NaN (none was computed), gradient
    norm and learning rate 0, and no tokens.
    """

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: int
    """Counts from 1 within the job."""
    epoch: int
    loss: Number
    """Cross-entropy per trained token, nats, over the whole step."""
    grad_norm: Number
    learning_rate: float
    tokens: int
    """Trained and context tokens, without padding."""
    seconds: float


class CheckpointCommitted(Event, frozen=True, kw_only=True, tag="checkpoint_committed"):
    """This record is the commit: the checkpoint directory counts from here on."""

    v: Literal[1] = 1
    checkpoint: CheckpointId
    job: JobId
    attempt: int
    global_step: int
    step: int
    parent: CheckpointId | None
    size_bytes: int
    manifest_sha256: str
    reason: CheckpointReason
