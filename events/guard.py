"""The facts of steps that could not be done as they were planned. A part of `kinds.py`, which has the rules for all."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from events.event import Event
from events.values import JobId, Number

Suspicion = Literal["not_finite", "spike"]
"""What was wrong with a batch: its loss or a gradient was no number, or the loss was far above those before it."""


class MicrobatchSplit(Event, frozen=True, kw_only=True, tag="micro_batch_halved"):
    """A step did not fit into memory. Nothing of it was done, and it is run again in smaller parts: the same rows, the
    same step. The fields are a `Split` (`course.py`), so that every later run of the step does the same."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: Annotated[int, Meta(ge=1)]
    """Counts from 1 within the job: the first that is run so."""
    parts: Annotated[int, Meta(ge=2)]
    """That each planned micro-batch is computed in."""
    steps: Annotated[int, Meta(ge=1)]
    """After so many, half as many parts are tried again."""
    message: str


class BatchSkipped(Event, frozen=True, kw_only=True, tag="batch_set_aside"):
    """A step was stopped before it changed anything, and its batch is not learned: the step keeps its number, and when
    it is reached it changes nothing (`step_reached` then has loss NaN, no gradient and no tokens)."""

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
    """Of the job's file: where the rows of the batch stand."""
    earlier: dict[JobId, tuple[int, ...]]
    """The same of rows that were mixed in from earlier files."""


AnyDetour = MicrobatchSplit | BatchSkipped
