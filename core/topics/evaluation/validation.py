"""Evaluations of a running job on rows that are never trained on, and when the validation loss is of concern.

An evaluation changes nothing of what is trained, so nothing of what is trained may depend on it: a worker that hangs or
fails in one is ended as usual, and the job continues without evaluations.

A validation loss is of concern if it is not finite. It is also of concern if it has risen above the lowest one of this
job and is above the training loss by more than the limits. Either sign alone says little: rows of another kind than the
file's have another loss from the beginning, and a small rise next to the training loss is noise. Together they say that
the model memorizes the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec.structs import asdict, replace

from core.checks import illegal, move_current_job, reporting_job
from core.job import Job
from core.tables import DecideTable, Events, EvolveTable
from events import kinds, messages
from events.settings import EvaluationSettings
from events.values import CONCERNS, Concern, Failure, Number

if TYPE_CHECKING:
    from core.state import State

AT_FAULT: frozenset[Failure] = frozenset({"hang", "out_of_memory", "code", "driver"})
"""Failures that an evaluation may cause. A full disk would have come without it; so would a worker that somebody
killed, but not twice in a row: then a watchdog for memory may kill it."""


# -- policy ---------------------------------------------------------------------------------------------------------


def concern_of(
    loss: Number, training_loss: Number | None, lowest: float | None, limits: EvaluationSettings
) -> Concern | None:
    """What is wrong with a validation loss. `lowest`: the lowest one of the same job before it.

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
    "gap": "it has risen, far above the training loss: the model begins to memorize the file",
    "wide_gap": "it has risen, very far above the training loss: the model memorizes the file",
    "not_finite": "it is not finite",
}


def described(event: kinds.EvaluationDone) -> str:
    """The result, in a sentence."""
    number = event.loss if isinstance(event.loss, str) else f"{event.loss:.4f}"
    gap = gap_of(event.loss, event.training_loss)
    compared = f" (training loss {event.training_loss:.4f}, gap {gap:+z.2f})" if gap is not None else ""
    concern = f"; {SAYS[event.concern]}" if event.concern is not None else ""
    return f"validation loss {number} after step {event.step}{compared}{concern}"


def gap_of(loss: Number, training_loss: Number | None) -> float | None:
    """How far the validation loss is above the training loss, nats; None: one of them is missing or not finite."""
    if isinstance(loss, str) or training_loss is None or isinstance(training_loss, str):
        return None
    return loss - training_loss


def is_worse(concern: Concern | None, before: Concern | None) -> bool:
    """True if a person should know of it."""
    return concern is not None and (before is None or CONCERNS.index(concern) > CONCERNS.index(before))


def evaluates(job: Job) -> bool:
    """True if the job's next attempt is evaluated. Steps that run again were evaluated the first time."""
    settings = job.settings
    if settings is None or job.evaluation.abandoned or job.until is not None:
        return False
    return settings.evaluation.rows > 0 and bool(settings.data.holdout or settings.sources.validation_sha256)


def is_at_fault(job: Job, failure: Failure) -> bool:
    """True if work that changes no weights may have caused the failure of the worker."""
    return failure in AT_FAULT or (failure == "killed" and job.failures > 0)


def abandoned(job: Job, attempt: int, failure: Failure, message: str) -> Events:
    """What follows a failure in an evaluation, besides what follows every failure."""
    if not is_at_fault(job, failure) or job.evaluation.abandoned or job.status != "training":
        return []
    return [kinds.EvaluationAbandoned(job=job.id, attempt=attempt, failure=failure, message=message)]


# -- reports of the worker ------------------------------------------------------------------------------------------


def _evaluated(state: State, report: messages.Evaluated, _now: float) -> Events:
    job = reporting_job(state, report)
    if job is None:
        return []
    assert job.settings is not None  # every started attempt has them
    concern = concern_of(report.loss, report.training_loss, job.evaluation.lowest, job.settings.evaluation)
    return [kinds.EvaluationDone(job=job.id, concern=concern, **asdict(report))]


DECIDE: DecideTable = {messages.Evaluated: _evaluated}


# -- events ---------------------------------------------------------------------------------------------------------


def _evaluation_done(state: State, event: kinds.EvaluationDone) -> State:
    job, reached = move_current_job(state, event), state.attempts.reached
    if (event.global_step, event.step) != (reached.global_step, reached.step):
        raise illegal(event, job.status, f"step {event.global_step} is not the one that was reached")
    losses = [each for each in (job.evaluation.lowest, event.loss) if isinstance(each, float)]
    found = replace(job.evaluation, step=event.step, lowest=min(losses, default=None), concern=event.concern)
    return replace(state, training=state.training.with_current(replace(job, evaluation=found)))


def _evaluation_abandoned(state: State, event: kinds.EvaluationAbandoned) -> State:
    job = move_current_job(state, event)
    found = replace(job.evaluation, abandoned=True)
    return replace(state, training=state.training.with_current(replace(job, evaluation=found)))


EVOLVE: EvolveTable = {
    kinds.EvaluationDone: _evaluation_done,
    kinds.EvaluationAbandoned: _evaluation_abandoned,
}
