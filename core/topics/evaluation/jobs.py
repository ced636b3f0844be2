"""Evaluations of both suites at the end of a job: after its last step, before its last commit.

They change nothing of what is trained. An error ends the evaluation, not the training. A worker that hangs or dies in
one is ended as usual; the job continues without evaluations (`validation.abandoned`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from core.checks import illegal, journaled, move_current_job
from core.job import Job
from core.tables import DecideTable, EvolveTable
from events import kinds, messages
from events.evaluation import Suites

if TYPE_CHECKING:
    from core.state import State

RESULTS_KEPT = 64
"""Results files of the newest jobs. The journal keeps the sums of all of them."""


def is_due(job: Job) -> bool:
    """True if the next attempt at the job evaluates its end. Steps that run again were evaluated the first time."""
    ended = job.goal is not None and job.evaluation.suites_step >= job.goal
    return job.until is None and not job.evaluation.abandoned and not ended


def suites(state: State, job: Job) -> Suites | None:
    """What the end of the job is evaluated on, with its own held-out rows; None: nothing."""
    if not is_due(job) or job.settings is None:
        return None
    settings, head = job.settings.evaluation, state.head
    files = state.evaluations.with_file(job.id, job.name, job.settings, head.global_step + 1)
    return replace(
        files.suites(settings, head.base_step), rows_max=settings.job_rows, questions_max=settings.job_questions
    )


DECIDE: DecideTable = {messages.JobEvaluated: journaled(kinds.JobEvaluated)}


def _job_evaluated(state: State, event: kinds.JobEvaluated) -> State:
    job, reached = move_current_job(state, event), state.attempts.reached
    if (event.global_step, event.step) != (reached.global_step, reached.step):
        raise illegal(event, job.status, f"step {event.global_step} is not the one that was reached")
    job = replace(job, evaluation=replace(job.evaluation, suites_step=event.step))
    evaluations = state.evaluations
    if event.results is not None:
        others = (each for each in evaluations.jobs if each.id != event.results.id)
        evaluations = replace(evaluations, jobs=(*others, event.results)[-RESULTS_KEPT:])
    return replace(
        state,
        training=state.training.with_current(job),
        evaluations=evaluations,
        replay_share=state.replay_share.measured(event),
    )


EVOLVE: EvolveTable = {kinds.JobEvaluated: _job_evaluated}
