"""Step recovery: what follows when a worker cannot run a step as planned.

A step that does not fit into memory runs again in smaller parts, at once if nothing of it was done. A batch whose loss
or gradients are not finite, or whose loss spikes, is skipped, once in a job: the attempt ends, and the next one starts
from the last commit, so that nothing is kept that the suspect step may have touched. A second suspect batch fails the
job: skipping batches does not fix its cause, and a person should look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import asdict, replace

from core.checks import illegal, move_current_job, reporting_job
from core.job import Job
from core.tables import DecideTable, Events, EvolveTable
from core.topics import attempts
from events import kinds, messages
from events.course import Course, Split

if TYPE_CHECKING:
    from core.state import State

STRIKES = 1
"""Batches of a job that may be skipped before a person is asked. One may be an odd row. Two in one file mean that the
learning rate is too high, or that the data is bad."""

LINES_SHOWN = 8
"""Lines of a batch that a message names; the event has them all."""

FIRST_STEPS = 64
"""Steps that a first split lasts before larger parts are tried again. What else needed the memory may be gone by then;
and if one heavy batch was the cause, 64 smaller steps cost little. Each further split lasts twice as long, so that a
job which never fits whole tries in vain only a few times: six in four thousand steps."""

LONGEST_STEPS = 2**20


def next_split(course: Course, step: int, sequences: int) -> Split | None:
    """The split under which `step` of a job runs again, after at most `sequences` together did not fit.

    None: it was one sequence already, and nothing can be split.

    >>> next_split(Course(), 7, 4)
    Split(step=7, parts=2, steps=64)
    """
    if sequences <= 1:
        return None
    earlier = sum(split.step < step for split in course.splits)
    return Split(step=step, parts=2 * course.parts_at(step), steps=min(LONGEST_STEPS, FIRST_STEPS << min(earlier, 20)))


# -- reports of the worker ------------------------------------------------------------------------------------------


def _out_of_memory(state: State, report: messages.OutOfMemory, now: float) -> Events:
    job = reporting_job(state, report)
    if job is None:
        return []
    split = next_split(job.course, report.step, report.sequences)
    if split is None:
        message = (
            f"one row alone does not fit into memory at step {report.step} of {job.name}: {report.message}. Lower "
            "[data] max_length, or make the model smaller ([model] dtype, [method] kind)"
        )
        return attempts.fail(state, job, "out_of_memory", message, now)
    smaller = kinds.MicrobatchSplit(
        job=job.id,
        attempt=report.attempt,
        global_step=report.global_step,
        message=report.message,
        **asdict(split),
    )
    if report.during == "gradients":
        return [smaller]
    message = f"memory ran out during the update of step {report.step}, which may be half applied: {report.message}"
    return [smaller, *attempts.fail(state, job, "out_of_memory", message, now)]


def _batch_suspect(state: State, report: messages.BatchSuspect, now: float) -> Events:
    job = reporting_job(state, report)
    if job is None:
        return []
    where = f"step {report.step} of {job.name} (global step {report.global_step}): {report.message}"
    if job.skip_requested or job.until is not None:  # nobody wants the job; or others were built on the step as it was
        return attempts.fail(state, job, "loss", where, now)
    if job.strikes >= STRIKES:
        return _second_strike(job, report, where)
    skipped = kinds.BatchSkipped(job=job.id, **asdict(report))
    failed = kinds.AttemptFailed(
        job=job.id, attempt=report.attempt, failure="loss", message=f"{where}; its batch is skipped", retry_at=now
    )
    return [skipped, failed]


def _second_strike(job: Job, report: messages.BatchSuspect, where: str) -> Events:
    lines = ", ".join(map(str, report.lines[:LINES_SHOWN])) + (", …" if len(report.lines) > LINES_SHOWN else "")
    message = (
        f"a second batch is suspect, and one was already skipped: {where}. What is committed stays. Look at lines "
        f"{lines}, or lower [training] learning_rate for later files; `keepstep retry {job.id[:12]}` skips this batch "
        "too and continues"
    )
    failed = kinds.AttemptFailed(job=job.id, attempt=report.attempt, failure="loss", message=where, retry_at=None)
    return [failed, kinds.JobFailed(job=job.id, message=message)]


DECIDE: DecideTable = {
    messages.OutOfMemory: _out_of_memory,
    messages.BatchSuspect: _batch_suspect,
}


# -- events ---------------------------------------------------------------------------------------------------------


def _microbatch_split(state: State, event: kinds.MicrobatchSplit) -> State:
    job = _stopped_job(state, event)
    split = Split(step=event.step, parts=event.parts, steps=event.steps)
    return _on_course(state, job, job.course.with_split(split), event.global_step)


def _batch_skipped(state: State, event: kinds.BatchSkipped) -> State:
    job = _stopped_job(state, event)
    if job.until is not None:
        raise illegal(event, job.status, "others were built on this step")
    job = replace(job, strikes=job.strikes + 1)
    return _on_course(state, job, job.course.skipping(event.step), event.global_step)


def _stopped_job(state: State, event: kinds.MicrobatchSplit | kinds.BatchSkipped) -> Job:
    """The job whose next step the event is about, moved by its table. Raises IllegalEvent."""
    job, reached = move_current_job(state, event), state.attempts.reached
    if (event.global_step, event.step) != (reached.global_step + 1, reached.step + 1):
        raise illegal(event, job.status, f"step {event.global_step} does not follow step {reached.global_step}")
    return job


def _on_course(state: State, job: Job, course: Course, global_step: int) -> State:
    """Put the job on another course from that step on. Uncommitted steps that it reached after it in an earlier attempt
    give other results now, so the step log forgets them; it keeps committed ones, which must come out the same."""
    step_log, reached = state.recovery.step_log, state.attempts.reached
    if job.until is None:
        step_log = step_log.until(global_step - 1)
    step = global_step - reached.global_step + reached.step
    evaluation = job.evaluation.until(step - 1)
    return replace(
        state,
        training=state.training.with_current(replace(job, course=course, evaluation=evaluation)),
        recovery=replace(state.recovery, step_log=step_log),
    )


EVOLVE: EvolveTable = {
    kinds.MicrobatchSplit: _microbatch_split,
    kinds.BatchSkipped: _batch_skipped,
}
