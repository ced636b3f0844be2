"""State in, effects out: what the world still owes.

This is how a restart resumes: there is no list of things to do anywhere but here, worked out anew from the state.
So every effect may be asked for more than once, and carrying it out twice is the same as once. The order written on
the type holds for all of them: the intent is journaled before the effect, its outcome after it.
"""

from __future__ import annotations

from msgspec import Struct

from core import evaluation, memory, policies
from core.job import RUNNING
from core.state import Rejection, State
from events.course import Course
from events.settings import JobSettings


class Effect(Struct, frozen=True, kw_only=True):
    """Something to be done in the world."""


class BeginAttempt(Effect, frozen=True, kw_only=True):
    """Journal `attempt_started` for this job under the settings of now. What follows is `PrepareData`."""

    job: str


class PrepareData(Effect, frozen=True, kw_only=True):
    """Have a worker (a new one, if none is up) read, check and plan the job's data."""

    attempt: int
    job: str
    name: str
    settings: JobSettings


class TrainJob(Effect, frozen=True, kw_only=True):
    """Have the worker train from the head on."""

    attempt: int
    base: str | None
    checkpoint: str | None
    global_step: int
    step: int
    until: int
    carry_optimizer: bool
    course: Course = Course()
    evaluates: bool = False
    evaluated_to: int = -1
    environment: dict[str, str] = {}


class BeginConsolidation(Effect, frozen=True, kw_only=True):
    """Journal `consolidation_started`. What follows is `Consolidate`."""


class Consolidate(Effect, frozen=True, kw_only=True):
    """Have the worker make a version of what was learned."""

    attempt: int
    version: str
    parent: str | None
    checkpoint: str
    backup: str
    description: str


class RestoreCheckpoint(Effect, frozen=True, kw_only=True):
    """Copy the head from its backup into its place, if it is not there; then `RecordRestored`."""

    backup: str
    checkpoint: str


class AskYield(Effect, frozen=True, kw_only=True):
    """Have the worker commit and stop at the next step boundary."""

    attempt: int


class MoveRejected(Effect, frozen=True, kw_only=True):
    """Put a rejected file into `rejected/` beside its report; then `RecordRejectedMoved`."""

    job: str
    rejection: Rejection


class AwaitRoom(Effect, frozen=True, kw_only=True):
    """The disk is full: begin nothing, look from time to time how much is free, and say so with `ReportDiskFree`."""

    wanted_bytes: int


class WaitUntil(Effect, frozen=True, kw_only=True):
    """Nothing to do before this time (Unix, seconds)."""

    at: float


class Leave(Effect, frozen=True, kw_only=True):
    """Nothing runs and the daemon was asked to stop: journal `daemon_stopped` and end."""


AnyEffect = (
    BeginAttempt
    | PrepareData
    | TrainJob
    | BeginConsolidation
    | Consolidate
    | RestoreCheckpoint
    | AskYield
    | MoveRejected
    | AwaitRoom
    | WaitUntil
    | Leave
)


def next_effects(state: State, now: float) -> tuple[AnyEffect, ...]:
    """Everything that is owed at `now` (Unix time, seconds)."""
    moves = () if state.full is not None else _moves(state)  # a move writes a report, which needs room
    if state.consolidation is not None:
        return (*moves, *_for_the_consolidation(state, now))
    if state.attempt is not None:
        return (*moves, *_for_the_attempt(state, now))
    if state.daemon.status in {"stopping", "stopping_paused"}:
        return (*moves, Leave())
    if state.full is not None:
        return (AwaitRoom(wanted_bytes=state.full.wanted_bytes),)
    if state.daemon.status == "idle" and state.short is None:
        return (*moves, *_next(state, now))
    return moves


def _moves(state: State) -> tuple[AnyEffect, ...]:
    return tuple(MoveRejected(job=job, rejection=rejection) for job, rejection in state.rejections.items())


def _for_the_attempt(state: State, now: float) -> tuple[AnyEffect, ...]:
    job, attempt = state.current, state.attempt
    assert job is not None  # an attempt is always at the current job, which was started with settings
    assert attempt is not None
    assert job.settings is not None
    if state.daemon.status != "working" or job.skip_requested or memory.ends_attempts(state.short, now):
        return (AskYield(attempt=attempt),)
    if job.status == "preparing":
        return (PrepareData(attempt=attempt, job=job.id, name=job.name, settings=job.settings),)
    if job.status == "ready":
        assert job.goal is not None  # it is planned
        head = state.head
        return (
            TrainJob(
                attempt=attempt,
                base=state.base,
                checkpoint=head.id if head else None,
                global_step=state.global_step,
                step=job.committed_step,
                until=job.goal,
                carry_optimizer=policies.carries_optimizer(job.settings, job.committed_step),
                course=job.course,
                evaluates=evaluation.evaluates(job),
                evaluated_to=job.evaluation.step,
                environment=job.environment,
            ),
        )
    return ()


def _for_the_consolidation(state: State, now: float) -> tuple[AnyEffect, ...]:
    running, attempt, consolidation_request = state.consolidation, state.attempt, state.consolidation_request
    assert running is not None
    assert attempt is not None
    assert consolidation_request is not None
    if state.daemon.status != "working" or memory.ends_attempts(state.short, now):
        return (AskYield(attempt=attempt),)
    if running.status != "started":  # then the worker is at it
        return ()
    return (
        Consolidate(
            attempt=attempt,
            version=running.version,
            parent=running.parent,
            checkpoint=running.checkpoint,
            backup=running.backup,
            description=consolidation_request.description,
        ),
    )


def _next(state: State, now: float) -> tuple[AnyEffect, ...]:
    """What is begun when nothing runs: what is in hand first, then what was asked for ahead of the queue."""
    if state.fetch is not None and state.head is not None:
        return (RestoreCheckpoint(backup=state.fetch, checkpoint=state.head.id),)
    if state.consolidation_request is None or state.begun:
        return _next_attempt(state, now)
    waits_for_files = state.queue.front() is not None and not state.consolidation_request.after_current
    if not waits_for_files and policies.is_due(state.consolidation_request.retry_at, now):
        return (BeginConsolidation(),)
    again = (
        ()
        if state.consolidation_request.retry_at is None or waits_for_files
        else (WaitUntil(at=state.consolidation_request.retry_at),)
    )
    return (*_next_attempt(state, now), *again)


def _next_attempt(state: State, now: float) -> tuple[AnyEffect, ...]:
    job = state.current or state.queue.front()
    if job is None or job.status in RUNNING:
        return ()
    if job.retry_at is not None and not policies.is_due(job.retry_at, now):
        return (WaitUntil(at=job.retry_at),)
    return (BeginAttempt(job=job.id),)
