"""Evaluations on rows that are never trained on."""

from __future__ import annotations

from typing import Literal

from events.event import Event
from events.values import Concern, Failure, JobId, Number


class EvaluationDone(Event, frozen=True, kw_only=True, tag="evaluation_done"):
    """The loss on the validation set was computed. An evaluation changes no weights."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: int
    """Steps of the job before the evaluation; 0: none."""
    rows: int
    tokens: int
    """Predicted tokens that the loss is the mean of."""
    loss: Number
    """Cross-entropy per token, nats."""
    training_loss: Number | None
    """The mean loss of the steps since the last evaluation; None: there were no steps."""
    seconds: float
    concern: Concern | None


class EvaluationAbandoned(Event, frozen=True, kw_only=True, tag="evaluation_abandoned"):
    """The worker hung or failed in an evaluation: this job continues without evaluations. `attempt_failed` follows."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    failure: Failure
    message: str
