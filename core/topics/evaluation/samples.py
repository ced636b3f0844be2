"""Samples of a running job: what the model answers to a few prompts, and what that may cost.

Samples change nothing of what is trained, so nothing of what is trained may depend on them. A round that fails is over,
and training continues. A worker that hangs or dies in one is ended as usual; the job continues without samples, and its
failure does not count against the job.

A round costs at most `cost_max` of the training since the round before. The state keeps what that needs: the seconds of
training (`Attempts.trained_s`) at the last round, and the seconds of a round. So small jobs save up for a round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from core import commands
from core.checks import current_job, illegal, journaled, move_current_job
from core.errors import Refused
from core.job import Job
from core.tables import DecideTable, Events, EvolveTable
from core.topics.evaluation.validation import is_at_fault
from core.transitions import RUNNING
from events import kinds, messages
from events.kinds import SamplesAbandoned, SamplesFailed, SamplesGenerated, SamplesPutOff, SamplesRequested
from events.samples import SampleBudget
from events.values import Failure

if TYPE_CHECKING:
    from core.state import State

Report = messages.Sampled | messages.SamplesPutOff | messages.SamplesFailed
Outcome = SamplesGenerated | SamplesPutOff | SamplesFailed


class Samples(Struct, frozen=True, omit_defaults=True):
    """Rounds of samples over the life of the home."""

    asked: bool = False
    """A person wants a round at the next step."""
    round_s: float | None = None
    """Seconds of a round, measured or estimated; None: unknown."""
    at_trained_s: float = 0.0
    """`Attempts.trained_s` at the last round."""
    spent_s: float = 0.0
    """Seconds of all rounds."""


# -- policy ---------------------------------------------------------------------------------------------------------


def budget(state: State, job: Job) -> SampleBudget | None:
    """What the next attempt at the job may spend on samples; None: nothing. Steps that run again were sampled the first
    time."""
    if job.until is not None:
        return None
    return SampleBudget(
        sampled_to=job.evaluation.sampled_step,
        trained_s=state.attempts.trained_s - state.samples.at_trained_s,
        round_s=state.samples.round_s,
        asked=state.samples.asked,
        abandoned=job.evaluation.samples_abandoned,
    )


def abandoned(job: Job, attempt: int, failure: Failure, message: str) -> Events:
    """What follows a failure in a round, besides what follows every failure."""
    if not is_at_fault(job, failure) or job.status != "training":
        return []
    return [SamplesAbandoned(job=job.id, attempt=attempt, failure=failure, message=message)]


def described(event: SamplesGenerated) -> str:
    """The result of a round, in a sentence."""
    total, right = len(event.answers), sum(each.match for each in event.answers)
    thinking = sum(each.thinks for each in event.answers)
    tag = f", {thinking} of {total} with {event.think_tag}" if event.think_tag else ""
    return f"samples after step {event.step}: {right} of {total} as expected{tag} ({event.seconds:.1f} s)"


def put_off_text(event: SamplesPutOff) -> str:
    """Why no samples were taken, and when they will be."""
    then = f"the next ones follow after step {event.next_step}" if event.next_step else "this job ends before the next"
    return (
        f"no samples after step {event.step}: they take about {event.round_s:.2g} s, more than "
        f"{100 * event.cost_max:.2g} % of the training since the last ones; {then}. For some at once: `keepstep "
        "samples now`"
    )


# -- commands and reports of the worker -----------------------------------------------------------------------------


def _request(state: State, command: commands.RequestSamples, _now: float) -> Events:
    job = state.training.current
    if job is None or job.status not in RUNNING or not command.alive:
        raise Refused(
            "nothing trains now, so there is no step to take samples after. `keepstep ask` answers a prompt with the "
            "last commit"
        )
    if job.until is not None:
        raise Refused(f"{job.name} runs lost steps again; they were sampled the first time")
    if state.samples.asked:
        raise Refused("samples are already requested for the next step")
    return [SamplesRequested(job=job.id)]


DECIDE: DecideTable = {
    commands.RequestSamples: _request,
    messages.Sampled: journaled(SamplesGenerated),
    messages.SamplesPutOff: journaled(SamplesPutOff),
    messages.SamplesFailed: journaled(SamplesFailed),
}


# -- events ---------------------------------------------------------------------------------------------------------


def _samples_requested(state: State, event: SamplesRequested) -> State:
    current_job(state, event)
    return replace(state, samples=replace(state.samples, asked=True))


def _samples_generated(state: State, event: SamplesGenerated) -> State:
    return _round_ended(state, event, round_s=event.seconds)


def _samples_failed(state: State, event: SamplesFailed) -> State:
    return _round_ended(state, event, round_s=state.samples.round_s)


def _round_ended(state: State, event: SamplesGenerated | SamplesFailed, round_s: float | None) -> State:
    job = _at_reached_step(state, event)
    evaluation = replace(job.evaluation, sampled_step=event.step)
    samples = Samples(
        asked=state.samples.asked and not event.asked,
        round_s=round_s,
        at_trained_s=state.attempts.trained_s,
        spent_s=state.samples.spent_s + event.seconds,
    )
    training = state.training.with_current(replace(job, evaluation=evaluation))
    return replace(state, training=training, samples=samples)


def _samples_put_off(state: State, event: SamplesPutOff) -> State:
    job = _at_reached_step(state, event)
    samples = replace(state.samples, round_s=event.round_s)
    return replace(state, training=state.training.with_current(job), samples=samples)


def _samples_abandoned(state: State, event: SamplesAbandoned) -> State:
    job = move_current_job(state, event)
    found = replace(job, evaluation=replace(job.evaluation, samples_abandoned=True))
    samples = replace(state.samples, asked=False)  # the same would happen again
    return replace(state, training=state.training.with_current(found), samples=samples)


def _at_reached_step(state: State, event: Outcome) -> Job:
    job, reached = move_current_job(state, event), state.attempts.reached
    if (event.global_step, event.step) != (reached.global_step, reached.step):
        raise illegal(event, job.status, f"step {event.global_step} is not the one that was reached")
    return job


EVOLVE: EvolveTable = {
    kinds.SamplesRequested: _samples_requested,
    kinds.SamplesGenerated: _samples_generated,
    kinds.SamplesPutOff: _samples_put_off,
    kinds.SamplesFailed: _samples_failed,
    kinds.SamplesAbandoned: _samples_abandoned,
}
