"""How a job does on rows that it never learns: facts in, events out; events in, state out.

An evaluation changes nothing of what is learned, so nothing of what is learned may depend on it: a worker that hangs or
fails in one is ended as ever, and the job goes on without.

A validation loss is of concern when it is no number; or when it has risen, above the lowest of this job, while it is
above the training loss by more than the limits. Either by itself says little: rows of another kind than the file's have
another loss from the beginning, and one that rises a little beside the training loss is noise. Together they say that
the file is being learned by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import asdict, replace

from core.job import Evaluation, Job
from core.moves import illegal, running_job
from core.state import State
from events import worker
from events.evaluation import CONCERNS, Concern, EvaluationAbandoned, EvaluationDone
from events.event import Event
from events.kinds import AnyEvent
from events.settings import EvaluationSettings
from events.values import Failure, Number

AT_FAULT: frozenset[Failure] = frozenset({"hang", "out_of_memory", "code", "driver"})
"""Failures that an evaluation may be the cause of. A disk that is full would have come to the same without; so would a
worker that somebody killed, but not twice in a row: then it may be somebody who looks after memory."""


def concern_of(
    loss: Number, training_loss: Number | None, lowest: float | None, limits: EvaluationSettings
) -> Concern | None:
    """What is wrong with a validation loss. `lowest`: of those of the same job before it.

    >>> limits = EvaluationSettings(gap_warn=0.3, gap_alert=0.5)
    >>> concern_of(2.0, 1.4, 1.9, limits), concern_of(2.0, 1.6, 1.9, limits), concern_of(1.8, 1.0, 1.9, limits)
    ('wide_gap', 'gap', None)
    """
    if isinstance(loss, str):
        return "not_finite"
    gap = gap_of(loss, training_loss)
    if gap is None or lowest is None or loss <= lowest:
        return None
    if gap > limits.gap_alert:
        return "wide_gap"
    return "gap" if gap > limits.gap_warn else None


SAYS: Mapping[Concern, str] = {
    "gap": "it has risen, far above the training loss: the file begins to be learned by heart",
    "wide_gap": "it has risen, very far above the training loss: the file is being learned by heart",
    "not_finite": "it is no number",
}


def told(event: EvaluationDone) -> str:
    """What was found, in a sentence."""
    number = event.loss if isinstance(event.loss, str) else f"{event.loss:.4f}"
    gap = gap_of(event.loss, event.training_loss)
    next_to = f" (training loss {event.training_loss:.4f}, gap {gap:+z.2f})" if gap is not None else ""
    concern = f"; {SAYS[event.concern]}" if event.concern is not None else ""
    return f"validation loss {number} behind step {event.step}{next_to}{concern}"


def gap_of(loss: Number, training_loss: Number | None) -> float | None:
    """How far the validation loss is above the training loss, nats; None: one of them is none."""
    if isinstance(loss, str) or training_loss is None or isinstance(training_loss, str):
        return None
    return loss - training_loss


def is_worse(concern: Concern | None, before: Concern | None) -> bool:
    """Whether a person should hear of it."""
    return concern is not None and (before is None or CONCERNS.index(concern) > CONCERNS.index(before))


def evaluates(job: Job) -> bool:
    """Whether the job's next attempt is evaluated on the way. Steps that are run again were evaluated before."""
    settings = job.settings
    if settings is None or job.evaluation.abandoned or job.until is not None:
        return False
    return settings.evaluation.rows > 0 and bool(settings.data.holdout or settings.sources.validation_sha256)


def abandoned(job: Job, attempt: int, failure: Failure, message: str) -> Sequence[AnyEvent]:
    """What comes of a failure in an evaluation, besides what comes of every failure."""
    at_fault = failure in AT_FAULT or (failure == "killed" and job.failures > 0)
    if not at_fault or job.evaluation.abandoned or job.status != "training":
        return []
    return [EvaluationAbandoned(job=job.id, attempt=attempt, failure=failure, message=message)]


def _evaluated(state: State, fact: worker.Evaluated, _now: float) -> Sequence[AnyEvent]:
    job = state.current
    if job is None or fact.attempt != state.attempt:
        return []
    assert job.settings is not None  # every started attempt carries them
    concern = concern_of(fact.loss, fact.training_loss, job.evaluation.lowest, job.settings.evaluation)
    return [EvaluationDone(job=job.id, concern=concern, **asdict(fact))]


def _evaluation_done(state: State, event: EvaluationDone) -> State:
    job = running_job(state, event)
    if (event.global_step, event.step) != (state.reached.global_step, state.reached.step):
        raise illegal(event, job.status, f"step {event.global_step} is not the one that was reached")
    losses = [each for each in (job.evaluation.lowest, event.loss) if isinstance(each, float)]
    found = Evaluation(step=event.step, lowest=min(losses, default=None), concern=event.concern)
    return replace(state, begun=(replace(job, evaluation=found), *state.begun[1:]))


def _evaluation_abandoned(state: State, event: EvaluationAbandoned) -> State:
    job = running_job(state, event)
    found = replace(job.evaluation, abandoned=True)
    return replace(state, begun=(replace(job, evaluation=found), *state.begun[1:]))


EVALUATED: Mapping[type, Callable[[State, Any, float], Sequence[AnyEvent]]] = {worker.Evaluated: _evaluated}

EVALUATION: Mapping[type[Event], Callable[[State, Any], State]] = {
    EvaluationDone: _evaluation_done,
    EvaluationAbandoned: _evaluation_abandoned,
}
