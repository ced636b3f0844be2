"""How a job does on rows that it never learns. A part of `kinds.py`, which has the rules for all."""

from __future__ import annotations

from typing import Literal

from events.event import Event
from events.values import Failure, JobId, Number

Concern = Literal["gap", "wide_gap", "not_finite"]
"""What is wrong with a validation loss: it rises while it is far above the training loss, or very far; or it is no
number. Each is worse than the one before."""

CONCERNS: tuple[Concern, ...] = ("gap", "wide_gap", "not_finite")


class EvaluationDone(Event, frozen=True, kw_only=True, tag="evaluation_done"):
    """The loss on the validation set was computed. It changes nothing of what is learned."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: int
    """How many steps of the job were learned before it; 0: none."""
    rows: int
    tokens: int
    """Whose prediction the loss is over."""
    loss: Number
    """Cross-entropy per token, nats."""
    training_loss: Number | None
    """The mean of the steps' losses since the evaluation before; None: there were no steps."""
    seconds: float
    concern: Concern | None


class EvaluationAbandoned(Event, frozen=True, kw_only=True, tag="evaluation_given_up"):
    """The worker hung or failed in an evaluation: this job goes on without. (What follows is `attempt_failed`.)"""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    failure: Failure
    message: str


AnyOfEvaluation = EvaluationDone | EvaluationAbandoned
