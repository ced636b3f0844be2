"""Attempts: when one starts, how one ends, and what follows when one fails (retry, abandon, hold, or wait for disk
space)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from zlib import crc32

from msgspec import Struct
from msgspec.structs import replace

from core import commands
from core.checks import illegal, move_current_job, move_daemon, reporting_job, status_after
from core.compatibility import settings_conflict, with_base_of
from core.effect import Effect
from core.errors import IllegalEvent, Refused
from core.failures import EXPLANATIONS
from core.job import Evaluation, Job
from core.tables import DecideTable, Events, EvolveTable
from core.topics import config, disk, recovery
from core.topics.evaluation import replay_share, samples, self_correction, validation
from core.transitions import RUNNING
from events import kinds, messages
from events.course import Course
from events.kinds import AnyEvent
from events.settings import JobSettings
from events.values import Failure

if TYPE_CHECKING:
    from core.state import State

ATTEMPTS_WITHOUT_PROGRESS = 5
"""A job fails permanently after so many attempts without one more committed step. With the waits below, a passing
problem (a busy GPU, full memory) has half a minute to pass, and one bad file does not take a whole night."""

FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 60.0

JITTER = 0.25
"""A wait is up to this share longer or shorter, so that two things that fail in step do not collide on each retry."""

PERSON_NEEDED: frozenset[Failure] = frozenset({"model", "storage", "data", "checkpoint", "plan"})
"""Failures that are not the job's fault and do not pass by themselves: the job waits, and so does the queue.
("checkpoint": an intact one that does not fit; a damaged one is quarantined without a person. "disk_full" is not among
them: it passes when space is free, and the daemon sees that by itself.)"""


class Progress(Struct, frozen=True, gc=False):
    """The last step that the running attempt has reached; not committed yet."""

    global_step: int = 0
    step: int = 0


class Attempts(Struct, frozen=True, gc=False):
    """Attempts at jobs and at consolidations, numbered over the life of the home."""

    current: int | None = None
    """The attempt that runs now."""
    last: int = 0
    """The number of the last attempt."""
    reached: Progress = Progress()
    trained_s: float = 0.0
    """Seconds of all steps, also of those that ran again."""

    def started(self, attempt: int, global_step: int, step: int = 0) -> Attempts:
        """Start an attempt at these steps."""
        return Attempts(attempt, attempt, Progress(global_step, step), self.trained_s)

    def ended(self) -> Attempts:
        """End the running attempt."""
        return Attempts(None, self.last, trained_s=self.trained_s)


class BeginAttempt(Effect, frozen=True, kw_only=True):
    """Journal `attempt_started` for this job, under the settings that the config file holds now."""

    job: str


class WaitUntil(Effect, frozen=True, kw_only=True):
    """There is nothing to do before this time. Unix time, seconds."""

    at: float


# -- policy ---------------------------------------------------------------------------------------------------------


def retry_wait_s(failures: int, attempt: int) -> float | None:
    """Seconds to wait after the n-th failure in a row without progress; None: no more retries.

    About 2, 4, 8, 16 seconds. The jitter follows from the number of the attempt that failed, so that the same history
    gives the same waits.

    >>> [retry_wait_s(n, attempt=7) for n in (1, 2, 5)]
    [1.917, 3.834, None]
    """
    if failures >= ATTEMPTS_WITHOUT_PROGRESS:
        return None
    share = crc32(b"%d" % attempt) / 2**32  # evenly from 0 to 1
    wait_s = FIRST_WAIT_S * 2.0 ** (failures - 1) * (1 - JITTER + 2 * JITTER * share)
    return round(min(LONGEST_WAIT_S, wait_s), 3)


def is_due(retry_at: float | None, now: float) -> bool:
    """True if the wait before a retry is over. More than the longest wait means that the clock was set back."""
    return retry_at is None or not 0.0 < retry_at - now <= LONGEST_WAIT_S


def fail(
    state: State, job: Job, failure: Failure, message: str, now: float, *, wanted_bytes: int = 0
) -> list[AnyEvent]:
    """The running attempt at a job failed: retry later, fail the job, or wait for a person or for disk space."""
    attempt = state.attempts.current
    assert attempt is not None
    then: Events = ()
    wait: float | None = None
    if job.skip_requested:  # whatever the failure was, nobody wants a retry
        then = [kinds.JobSkipped(job=job.id)]
    elif failure in PERSON_NEEDED:
        advice = model_advice(state) if failure == "model" else EXPLANATIONS[failure].advice
        then = [kinds.DaemonHeld(reason=message, advice=advice)]
    elif failure != "disk_full":
        wait = retry_wait_s(job.failures + 1, attempt)
        then = [] if wait is not None else [_abandoned(job, message)]
    retry_at = None if wait is None else now + wait
    return [
        kinds.AttemptFailed(job=job.id, attempt=attempt, failure=failure, message=message, retry_at=retry_at),
        *then,
        *(disk.exhausted(state, message, wanted_bytes) if failure == "disk_full" else ()),
    ]


def _abandoned(job: Job, message: str) -> AnyEvent:
    """The end of a job that makes no progress; a hold instead if others were built on its committed steps."""
    if job.until is None:
        attempts = job.failures + 1
        reason = f"failed permanently after {attempts} attempts without progress; the last: {message}"
        return kinds.JobFailed(job=job.id, message=reason)
    reason = (
        f"committed steps of {job.name} are lost and cannot be run again: {job.failures + 1} attempts made no "
        f"progress; the last: {message}"
    )
    return kinds.DaemonHeld(reason=reason, advice="fix what stops it, then `keepstep resume`")


def model_advice(state: State) -> str:
    """What to do about a model that cannot be loaded or trained, in this state. What was trained fixes some settings,
    and advice to change those would be refused."""
    base = state.head.base or "the origin"
    if state.head.checkpoint is not None:
        job = state.training.current  # it keeps the head where it is; what it trained stays in the detached checkpoint
        skip = f"`keepstep skip {job.id[:12]}` (add {job.name} again afterwards), " if job is not None else ""
        return (
            f"what was trained since {base} fixes [model] and [method]. To continue with it, put the model and the "
            f"libraries back as they were, then `keepstep resume`. To change these settings, leave it first: {skip}"
            "`keepstep versions rollback`; then do what the message says, then `keepstep resume`"
        )
    if state.retention.versions:
        return (
            "do what the message says, then `keepstep resume`; the versions of this home fix the bytes of the base, "
            "and whether adapters or all weights train. Another home (`keepstep init`) takes others"
        )
    return EXPLANATIONS["model"].advice


def with_sources(settings: JobSettings, state: State, job: str) -> JobSettings:
    """Add the earlier files that rows are mixed in from, if the settings want any, and how many rows that are."""
    if not settings.data.replay:
        return settings
    own = state.self_correction.own  # made of rows that are mixed in themselves
    earlier = tuple(each for each in state.outcomes.trained if each != job and each not in own)
    sources = replace(settings.sources, replay=earlier)
    return replace(settings, sources=replay_share.resolved(sources, settings.data, state.replay_share))


# -- commands and reports of the worker -----------------------------------------------------------------------------


def _start_attempt(state: State, command: commands.StartAttempt, _now: float) -> Events:
    job = state.training.current or state.queue.front()
    if job is None or job.id != command.job or state.daemon.status != "idle":
        raise Refused(f"job {command.job[:12]} is not the next one")
    if state.disk.full is not None:
        raise Refused(f"no attempt starts while the disk is full: {state.disk.full.message}")
    if state.memory.shortage is not None:
        raise Refused("no attempt starts while memory is short")
    settings = with_sources(command.settings, state, job.id)
    if job.begun and job.settings is not None:
        settings = with_base_of(job.settings, settings.model)
    unpublished = state.head.checkpoint is not None
    conflict = settings_conflict(state.head.weight_settings, settings, unpublished=unpublished)
    if conflict is not None:
        return [
            kinds.DaemonHeld(
                reason=f"keepstep.toml does not fit the trained weights: {conflict}",
                advice="set the old value again and run `keepstep resume`, or use another home for the new one",
            )
        ]
    started = kinds.AttemptStarted(job=job.id, attempt=state.attempts.last + 1, settings=settings)
    return [started] if job.begun else [*config.changed_for(state, job.id, settings), started]


_ABANDONED: Mapping[messages.WorkerPhase | None, Callable[[Job, int, Failure, str], Events]] = {
    "evaluate": validation.abandoned,
    "sample": samples.abandoned,
    "self_correct": self_correction.abandoned,
}
"""Phases that a job can continue without, and what follows when one fails."""


def _worker_failed(state: State, report: messages.Failed | commands.ReportWorkerLost, now: float) -> Events:
    """The worker failed, or is gone; either way this was its last message."""
    job = reporting_job(state, report)
    if job is None:
        return []
    abandon = _ABANDONED.get(report.phase)
    abandoned = abandon(job, report.attempt, report.failure, report.message) if abandon is not None else ()
    if abandoned:  # what changes no weights never fails a job
        job = replace(job, failures=min(job.failures, ATTEMPTS_WITHOUT_PROGRESS - 2))
    return [*abandoned, *fail(state, job, report.failure, report.message, now)]


def _yielded(state: State, report: messages.Yielded, _now: float) -> Events:
    job = reporting_job(state, report)
    if job is None:
        return []
    yielded = kinds.AttemptYielded(job=job.id, attempt=report.attempt)
    return [yielded, kinds.JobSkipped(job=job.id)] if job.skip_requested else [yielded]


def _checkpoint_bad(state: State, report: messages.CheckpointBad, now: float) -> Events:
    job, head = reporting_job(state, report), state.head.checkpoint
    if job is None:
        return []
    if head is None or report.checkpoint != head.id:
        message = f"the worker was to load {head.id if head else 'the base'}, not {report.checkpoint}"
        return fail(state, job, "code", message, now)
    failed = kinds.AttemptFailed(
        job=job.id, attempt=report.attempt, failure="checkpoint", message=report.problem, retry_at=now
    )
    return [failed, *recovery.quarantine(state, report.checkpoint, report.problem)]


def fail_for_full_disk(state: State, command: commands.ReportDiskFull, now: float) -> Events:
    """End the running attempt at a job, if there is one, and wait for disk space."""
    if state.attempts.current is None or state.training.current is None:
        return disk.exhausted(state, command.message, command.wanted_bytes)
    job = state.training.current
    return fail(state, job, "disk_full", command.message, now, wanted_bytes=command.wanted_bytes)


def impossible(state: State, error: IllegalEvent, now: float) -> Events:
    """The running worker reported something that cannot be true, so its attempt has failed."""
    job = state.training.current
    assert job is not None  # the reports of other attempts lead to no events
    return fail(state, job, "code", f"the worker reported something impossible: {error}", now)


def interrupted(state: State) -> list[AnyEvent]:
    """The daemon of the running attempt is gone."""
    job, attempt = state.training.current, state.attempts.current
    if attempt is None or job is None:
        return []
    reason = f"the daemon (pid {state.daemon.pid}) was gone"
    events: list[AnyEvent] = [kinds.AttemptInterrupted(job=job.id, attempt=attempt, reason=reason)]
    return [*events, kinds.JobSkipped(job=job.id)] if job.skip_requested else events


DECIDE: DecideTable = {
    commands.StartAttempt: _start_attempt,
    commands.ReportWorkerLost: _worker_failed,
    commands.ReportDiskFull: fail_for_full_disk,
    messages.Failed: _worker_failed,
    messages.Yielded: _yielded,
    messages.CheckpointBad: _checkpoint_bad,
}


DECIDE_WHILE_RUNNING: DecideTable = {}
"""`DECIDE` and the tables of training have every handler for the running attempt at a job."""


# -- events ---------------------------------------------------------------------------------------------------------


def _attempt_started(state: State, event: kinds.AttemptStarted) -> State:
    training, recovery_ = state.training, state.recovery
    job = training.current or state.queue.front()
    if job is None or job.id != event.job:
        raise illegal(event, "idle", f"job {event.job[:12]} is not the next one")
    if event.attempt != state.attempts.last + 1:
        raise illegal(event, job.status, f"attempt {event.attempt} does not follow attempt {state.attempts.last}")
    started = replace(job, status=status_after(job, event), settings=event.settings, retry_at=None)
    before = with_base_of(job.settings, event.settings.model) if job.settings is not None else None
    if before != event.settings:  # its next steps are not those that were reached before
        started = replace(started, course=Course(), evaluation=Evaluation())
        recovery_ = replace(recovery_, step_log=recovery_.step_log.until(state.head.global_step))
    return replace(
        move_daemon(state, event),
        home=replace(state.home, repaired=False),  # files that no record named were removed before this
        attempts=state.attempts.started(event.attempt, state.head.global_step, job.committed_step),
        config=state.config if job.begun else replace(state.config, job_settings=event.settings),
        disk=replace(state.disk, full=None),  # an earlier keepstep continued without an event for the free space
        queue=state.queue if training.in_progress else state.queue.remove(job.id),
        recovery=recovery_,
        replay_share=state.replay_share.started(event) if job.until is None else state.replay_share,
        training=replace(training, in_progress=(started, *training.in_progress[1:])),
    )


def _attempt_ended(state: State, event: kinds.AttemptInterrupted | kinds.AttemptYielded | kinds.AttemptFailed) -> State:
    job = move_current_job(state, event)
    if isinstance(event, kinds.AttemptFailed):
        # A bad checkpoint is not the job's fault; nor is a failure that waits for a person.
        failures = job.failures + (event.failure != "checkpoint" and event.retry_at is not None)
        job = replace(job, failures=failures, retry_at=event.retry_at)
    moved = move_daemon(state, event, "attempt_ended")
    return replace(moved, attempts=state.attempts.ended(), training=state.training.with_current(job))


EVOLVE: EvolveTable = {
    kinds.AttemptStarted: _attempt_started,
    kinds.AttemptInterrupted: _attempt_ended,
    kinds.AttemptYielded: _attempt_ended,
    kinds.AttemptFailed: _attempt_ended,
}


# -- effects --------------------------------------------------------------------------------------------------------


def next_attempt(state: State, now: float) -> tuple[BeginAttempt | WaitUntil, ...]:
    """The job to start now, or the time to wait until: a job in progress first, then the front of the queue."""
    job = state.training.current or state.queue.front()
    if job is None or job.status in RUNNING:
        return ()
    if job.retry_at is not None and not is_due(job.retry_at, now):
        return (WaitUntil(at=job.retry_at),)
    return (BeginAttempt(job=job.id),)
