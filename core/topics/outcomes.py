"""How jobs end: trained, rejected, skipped or failed, and retried. Ended jobs leave the state and are counted.

A state is as large as the work in progress, however long the history is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from core import commands
from core.checks import current_job, illegal, move_current_job, move_daemon, status_after
from core.effect import Effect
from core.errors import Refused
from core.job import Job
from core.structures.maps import Map
from core.structures.situations import Counts
from core.tables import DecideTable, Events, EvolveTable
from core.transitions import RUNNING
from events import kinds
from events.event import Event

if TYPE_CHECKING:
    from core.state import State

REPLAYED_FILES = 64
"""Rows are mixed in from so many of the last trained files: two months of nights, and a state that does not grow with
the years."""


class Rejection(Struct, frozen=True):
    """A rejected file that still has to be moved to `rejected/`."""

    name: str
    problem: str
    line: int | None
    message: str


class Outcomes(Struct, frozen=True):
    """Jobs that have ended, as far as something still depends on them."""

    failed: Map[Job] = Map()
    """By id; a person can retry them."""
    rejections: Map[Rejection] = Map()
    """By job id."""
    trained: tuple[str, ...] = ()
    """The jobs that were trained last, the oldest first: rows of their files are mixed into new jobs."""
    counts: Counts = Counts()

    def counted(self, outcome: Literal["trained", "rejected", "skipped", "duplicates", "removed"]) -> Outcomes:
        """Add one to a count."""
        return replace(self, counts=replace(self.counts, **{outcome: getattr(self.counts, outcome) + 1}))


class MoveRejected(Effect, frozen=True, kw_only=True):
    """Put a rejected file into `rejected/` next to its report; then `RecordRejectedMoved`."""

    job: str
    rejection: Rejection


# -- commands -------------------------------------------------------------------------------------------------------


def _skip(state: State, command: commands.Skip, _now: float) -> Events:
    job = state.training.current if command.job is None else state.job(command.job)
    if job is None:
        raise Refused("no job is in progress" if command.job is None else f"no job {command.job[:12]} waits or runs")
    if job.skip_requested:
        raise Refused(f"{job.name} is already being skipped")
    if job.until is not None:
        raise Refused(f"{job.name} runs again to restore committed steps; it cannot be skipped")
    if job.status == "failed":
        raise Refused(f"{job.name} has failed; there is nothing to skip")
    if job.status in RUNNING:
        return [kinds.JobSkipRequested(job=job.id)]
    if job is not state.training.current and state.queue.get(job.id) is None:
        raise Refused(f"{job.name} waits for steps that run again; skip it when they are done")
    return [kinds.JobSkipped(job=job.id)]


def _retry(state: State, command: commands.Retry, _now: float) -> Events:
    if state.outcomes.failed.get(command.job) is None:
        raise Refused(f"job {command.job[:12]} has not failed")
    return [kinds.JobRetried(job=command.job)]


def _record_rejected_moved(state: State, command: commands.RecordRejectedMoved, _now: float) -> Events:
    if state.outcomes.rejections.get(command.job) is None:
        return []
    return [kinds.RejectedFileMoved(job=command.job, path=command.path)]


DECIDE: DecideTable = {
    commands.Skip: _skip,
    commands.Retry: _retry,
    commands.RecordRejectedMoved: _record_rejected_moved,
}


# -- events ---------------------------------------------------------------------------------------------------------


def _job_trained(state: State, event: kinds.JobTrained) -> State:
    job = move_current_job(state, event)
    head = state.head.checkpoint
    if head is None or head.id != event.checkpoint or job.goal != job.committed_step:
        raise illegal(event, state.training.in_progress[0].status, "its last step is not committed")
    finished = _finished(state, event)
    if job.until is not None:  # counted when it was trained the first time
        return finished
    trained = (*(each for each in state.outcomes.trained if each != job.id), job.id)[-REPLAYED_FILES:]
    return replace(
        finished,
        outcomes=replace(state.outcomes.counted("trained"), trained=trained),
        evaluations=state.evaluations.with_file(job.id, job.name, job.settings, event.global_step),
    )


def _job_rejected(state: State, event: kinds.JobRejected) -> State:
    keeps_data = current_job(state, event).trained_from
    outcomes = state.outcomes.counted("rejected")
    if not keeps_data:
        rejection = Rejection(event.name, event.problem, event.line, event.message)
        outcomes = replace(outcomes, rejections=outcomes.rejections.insert(event.job, rejection))
    return replace(_finished(state, event), outcomes=outcomes)


def _rejected_file_moved(state: State, event: kinds.RejectedFileMoved) -> State:
    rejections = state.outcomes.rejections
    if rejections.get(event.job) is None:
        raise illegal(event, "settled", f"no rejection of {event.job[:12]} is open")
    return replace(state, outcomes=replace(state.outcomes, rejections=rejections.remove(event.job)))


def _job_skip_requested(state: State, event: kinds.JobSkipRequested) -> State:
    job = current_job(state, event)
    status_after(job, event)
    return replace(state, training=state.training.with_current(replace(job, skip_requested=True)))


def _job_skipped(state: State, event: kinds.JobSkipped) -> State:
    current, outcomes = state.training.current, state.outcomes.counted("skipped")
    if current is not None and current.id == event.job:  # it may wait in the queue too, if a part of it runs again
        finished = _finished(state, event)
        return finished if current.until is not None else replace(finished, outcomes=outcomes)
    if state.queue.get(event.job) is not None:
        return replace(state, queue=state.queue.remove(event.job), outcomes=outcomes)
    raise illegal(event, "settled", f"job {event.job[:12]} neither waits nor is in progress")


def _finished(state: State, event: Event) -> State:
    """Remove the current job, and end its attempt if it has one."""
    job = current_job(state, event)
    status_after(job, event)
    if state.attempts.current is not None:
        state = move_daemon(state, event, "attempt_ended")
    training = replace(state.training, in_progress=state.training.in_progress[1:])
    recovery = state.recovery
    if job.until is None:  # what followed a replay range the first time runs again as well
        recovery = replace(recovery, step_log=recovery.step_log.until(state.head.global_step))
    return replace(state, attempts=state.attempts.ended(), training=training, recovery=recovery)


def _job_failed(state: State, event: kinds.JobFailed) -> State:
    job = current_job(state, event)
    failed = replace(job, status=status_after(job, event), retry_at=None, skip_requested=False)
    return replace(
        state,
        training=replace(state.training, in_progress=state.training.in_progress[1:]),
        outcomes=replace(state.outcomes, failed=state.outcomes.failed.insert(job.id, failed)),
        recovery=replace(state.recovery, step_log=state.recovery.step_log.until(state.head.global_step)),
    )


def _job_retried(state: State, event: kinds.JobRetried) -> State:
    job = state.outcomes.failed.get(event.job)
    if job is None:
        raise illegal(event, "not failed", f"job {event.job[:12]}")
    # Steps that run again may start from other weights now.
    evaluation = replace(job.evaluation.until(job.committed_step - 1), abandoned=False, samples_abandoned=False)
    again = replace(job, status=status_after(job, event), failures=0, strikes=0, evaluation=evaluation)
    outcomes = replace(state.outcomes, failed=state.outcomes.failed.remove(job.id))
    return replace(state, outcomes=outcomes, queue=state.queue.push(again))


EVOLVE: EvolveTable = {
    kinds.JobTrained: _job_trained,
    kinds.JobRejected: _job_rejected,
    kinds.RejectedFileMoved: _rejected_file_moved,
    kinds.JobSkipRequested: _job_skip_requested,
    kinds.JobSkipped: _job_skipped,
    kinds.JobFailed: _job_failed,
    kinds.JobRetried: _job_retried,
}


# -- effects --------------------------------------------------------------------------------------------------------


def moves_of_rejected(state: State) -> tuple[MoveRejected, ...]:
    """The rejected files that still stand in `data/`. A move writes a report, so it waits while the disk is full."""
    if state.disk.full is not None:
        return ()
    return tuple(MoveRejected(job=job, rejection=rejection) for job, rejection in state.outcomes.rejections.items())
