"""What becomes of a step that a worker could not do as planned: facts in, events out. A part of `decide`.

A step that does not fit into memory is run again in smaller parts, at once where nothing of it was done. One whose
numbers ran away is left out, once in a job: the attempt ends, and the next one begins from the last commit, so that
nothing is believed which the suspect step may have touched. A second time the job is given up: something is wrong that
leaving out does not mend, and a person should look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import asdict

from core.job import Job
from core.reports import REPORTS
from core.splits import halved
from core.state import State
from events import kinds, worker
from events.guard import BatchSkipped, MicrobatchSplit
from events.kinds import AnyEvent
from events.values import Failure

Events = Sequence[AnyEvent]

STRIKES = 1
"""How many batches of a job may be set aside before a person is asked. One may be an odd row; two, so close to each
other that they came in one file, are a learning rate that is too high, or data that should not be learned."""

LINES_SHOWN = 8
"""Of a batch in a sentence; the event has them all."""


def _out_of_memory(state: State, fact: worker.OutOfMemory, now: float) -> Events:
    job = _running(state, fact)
    if job is None:
        return []
    split = halved(job.course, fact.step, fact.sequences)
    if split is None:
        message = (
            f"one row alone does not fit into memory at step {fact.step} of {job.name}: {fact.message}. Lower [data] "
            "max_length, or hold the model smaller ([model] dtype, [method] kind)"
        )
        return _fails(state, fact, "out_of_memory", message, now)
    smaller = MicrobatchSplit(
        job=job.id,
        attempt=fact.attempt,
        global_step=fact.global_step,
        message=fact.message,
        **asdict(split),
    )
    if fact.during == "gradients":
        return [smaller]
    message = f"memory ran out within the update of step {fact.step}, which may be half-applied: {fact.message}"
    return [smaller, *_fails(state, fact, "out_of_memory", message, now)]


def _batch_suspect(state: State, fact: worker.BatchSuspect, now: float) -> Events:
    job = _running(state, fact)
    if job is None:
        return []
    where = f"step {fact.step} of {job.name} (global step {fact.global_step}): {fact.message}"
    if job.skip_requested or job.until is not None:  # nobody wants it; or others were built on it as it was
        return _fails(state, fact, "loss", where, now)
    if job.strikes >= STRIKES:
        return _abandoned(job, fact, where)
    aside = BatchSkipped(job=job.id, **asdict(fact))
    failed = kinds.AttemptFailed(
        job=job.id, attempt=fact.attempt, failure="loss", message=f"{where}; its batch is left out", retry_at=now
    )
    return [aside, failed]


def _abandoned(job: Job, fact: worker.BatchSuspect, where: str) -> Events:
    lines = ", ".join(map(str, fact.lines[:LINES_SHOWN])) + (", …" if len(fact.lines) > LINES_SHOWN else "")
    message = (
        f"a second batch of it is suspect, and one was left out before: {where}. What is committed stays. Look at "
        f"lines {lines}, or lower [training] learning_rate for files to come; `keepstep retry {job.id[:12]}` leaves "
        "this batch out too and goes on"
    )
    failed = kinds.AttemptFailed(job=job.id, attempt=fact.attempt, failure="loss", message=where, retry_at=None)
    return [failed, kinds.JobFailed(job=job.id, message=message)]


def _running(state: State, fact: worker.Fact) -> Job | None:
    return state.current if fact.attempt == state.attempt else None


def _fails(state: State, fact: worker.Fact, failure: Failure, message: str, now: float) -> Events:
    """As if the worker had said just that it failed."""
    return REPORTS[worker.Failed](
        state, worker.Failed(attempt=fact.attempt, failure=failure, message=message, trace=""), now
    )


GUARD: Mapping[type, Callable[[State, Any, float], Events]] = {
    worker.OutOfMemory: _out_of_memory,
    worker.BatchSuspect: _batch_suspect,
}
