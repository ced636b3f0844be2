"""Where a job parts from its plan: events in, state out. A part of `evolve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from core.job import Job
from core.moves import illegal, running_job
from core.state import State
from events.course import Course, Split
from events.event import Event
from events.guard import BatchSkipped, MicrobatchSplit


def _micro_batch_halved(state: State, event: MicrobatchSplit) -> State:
    job = _stopped_at(state, event)
    split = Split(step=event.step, parts=event.parts, steps=event.steps)
    return _on(state, job, job.course.with_split(split), event.global_step)


def _batch_set_aside(state: State, event: BatchSkipped) -> State:
    job = _stopped_at(state, event)
    if job.until is not None:
        raise illegal(event, job.status, "others were built on this step")
    on_course = _on(state, job, job.course.passing_over(event.step), event.global_step)
    return replace(on_course, begun=(replace(on_course.begun[0], strikes=job.strikes + 1), *state.begun[1:]))


def _stopped_at(state: State, event: MicrobatchSplit | BatchSkipped) -> Job:
    """The job whose next step the event is about, moved on by its table."""
    job = running_job(state, event)
    reached = state.reached
    if (event.global_step, event.step) != (reached.global_step + 1, reached.step + 1):
        raise illegal(event, job.status, f"step {event.global_step} does not follow step {reached.global_step}")
    return job


def _on(state: State, job: Job, course: Course, global_step: int) -> State:
    """`state` with the job on another course from that step on. If it had been further before, those steps come out
    otherwise now, and are not to be held against what they gave then; but committed ones are."""
    trail = state.trail.until(global_step - 1) if job.until is None else state.trail
    step = global_step - state.reached.global_step + state.reached.step
    job = replace(job, evaluation=replace(job.evaluation, step=min(job.evaluation.step, step - 1)))
    return replace(state, begun=(replace(job, course=course), *state.begun[1:]), trail=trail)


DETOURS: Mapping[type[Event], Callable[[State, Any], State]] = {
    MicrobatchSplit: _micro_batch_halved,
    BatchSkipped: _batch_set_aside,
}
