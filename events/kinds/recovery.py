"""Steps that cannot run as planned, and checkpoints that are lost."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from events.event import Event
from events.values import CheckpointId, JobId, Number, Suspicion


class MicrobatchSplit(Event, frozen=True, kw_only=True, tag="microbatch_split"):
    """A step did not fit into memory. It changed nothing, and it runs again in smaller parts: the same rows, the same
    step. The fields are a `Split` (`course.py`), so that every later run of the step does the same."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: Annotated[int, Meta(ge=1)]
    """The first step that runs in parts. Counts from 1 within the job."""
    parts: Annotated[int, Meta(ge=2)]
    """Parts of each planned micro-batch."""
    steps: Annotated[int, Meta(ge=1)]
    """Steps after which half as many parts are tried."""
    message: str


class BatchSkipped(Event, frozen=True, kw_only=True, tag="batch_skipped"):
    """A step was stopped before it changed anything, and its batch is skipped. The step keeps its number, and when it
    is reached it changes nothing (`step_reached` then has loss NaN, no gradient and no tokens)."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: int
    loss: Number
    grad_norm: Number
    suspicion: Suspicion
    message: str
    lines: tuple[int, ...]
    """Lines of the job's file that the batch has."""
    earlier: dict[JobId, tuple[int, ...]]
    """Lines of earlier files whose rows were mixed in, by job."""


class DivergenceDetected(Event, frozen=True, kw_only=True, tag="divergence_detected"):
    """A step that ran again did not give the bits of its first run."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: int
    loss: Number
    grad_norm: Number
    expected_loss: Number
    expected_grad_norm: Number


class CheckpointQuarantined(Event, frozen=True, kw_only=True, tag="checkpoint_quarantined"):
    """A committed checkpoint is damaged. It moves to `quarantine/`, and `head` is used instead (None: the base)."""

    v: Literal[1] = 1
    checkpoint: CheckpointId
    problem: str
    head: CheckpointId | None
