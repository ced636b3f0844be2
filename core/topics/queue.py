"""The queue: files arrive, wait in lanes, move, are held and are removed. The slice of the state is the `Queue`
itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from core import commands
from core.checks import illegal, status_after
from core.errors import Refused
from core.job import Job
from core.tables import DecideTable, Events, EvolveTable
from core.topics.outcomes import Rejection
from events import kinds

if TYPE_CHECKING:
    from core.state import State

REMOVED = "a person took it out of the queue; nothing is wrong with it, and it can be dropped in again"
"""The reason in the report next to a removed file."""


# -- commands -------------------------------------------------------------------------------------------------------


def _add_file(state: State, command: commands.AddFile, _now: float) -> Events:
    earlier = state.job(command.job) or state.outcomes.rejections.get(command.job)
    if earlier is not None and command.retrain:
        raise Refused(
            f"{command.name} is identical to {earlier.name}, which is in progress; to train on it again, wait until "
            "that has ended"
        )
    if earlier is not None or (command.known and not command.retrain):
        return [kinds.FileDuplicate(job=command.job, name=command.name)]
    return [
        kinds.FileEnqueued(
            job=command.job,
            name=command.name,
            size_bytes=command.size_bytes,
            priority=command.priority,
            retrain=command.retrain,
        )
    ]


def _waiting(state: State, job_id: str) -> Job:
    """The job in the queue. Raises Refused with the reason why it does not wait."""
    job = state.queue.get(job_id)
    if job is not None:
        return job
    elsewhere = state.job(job_id)
    if elsewhere is None:
        raise Refused(f"no job {job_id[:12]} waits; it has ended, or never existed")
    if elsewhere.status == "failed":
        raise Refused(f"{elsewhere.name} has failed and is not in the queue. To queue it again: `keepstep retry`")
    raise Refused(
        f"{elsewhere.name} is in progress, and a job that has started is finished first; `keepstep skip` ends it"
    )


def _move_job(state: State, command: commands.MoveJob, _now: float) -> Events:
    job, queue = _waiting(state, command.job), state.queue
    priority, before = command.priority or job.priority, command.before
    if before is not None:
        other = _waiting(state, before)
        if other.id == job.id:
            raise Refused(f"{job.name} cannot stand before itself")
        if command.priority not in {None, other.priority}:
            raise Refused(
                f"{other.name} has priority {other.priority}; only a job of that priority can stand before it"
            )
        priority = other.priority
    elif command.first:
        before = queue.lane(priority).front
    elif priority == job.priority:
        raise Refused(f"{job.name} already has priority {priority}")
    if priority == job.priority and before in {job.id, queue.after(job.id)}:
        raise Refused(f"{job.name} already stands there")
    return [kinds.JobMoved(job=job.id, priority=priority, before=before)]


def _hold_job(state: State, command: commands.HoldJob, _now: float) -> Events:
    job = _waiting(state, command.job)
    if job.status == "held":
        raise Refused(f"{job.name} is already held. To release it: `keepstep queue release`")
    return [kinds.JobHeld(job=job.id)]


def _release_job(state: State, command: commands.ReleaseJob, _now: float) -> Events:
    job = _waiting(state, command.job)
    if job.status != "held":
        raise Refused(f"{job.name} is not held")
    return [kinds.JobReleased(job=job.id)]


def _remove_job(state: State, command: commands.RemoveJob, _now: float) -> Events:
    job = state.queue.get(command.job) or state.outcomes.failed.get(command.job) or _waiting(state, command.job)
    if job.begun:
        advice = "it stays failed" if job.status == "failed" else "`keepstep skip` ends it and keeps what it trained"
        raise Refused(f"{job.name} is partly trained and cannot be removed; {advice}")
    return [kinds.JobRemoved(job=job.id, name=job.name, keeps_data=job.trained_from)]


DECIDE: DecideTable = {
    commands.AddFile: _add_file,
    commands.MoveJob: _move_job,
    commands.HoldJob: _hold_job,
    commands.ReleaseJob: _release_job,
    commands.RemoveJob: _remove_job,
}


# -- events ---------------------------------------------------------------------------------------------------------


def _file_enqueued(state: State, event: kinds.FileEnqueued) -> State:
    if state.job(event.job) is not None:
        raise illegal(event, "queued", f"job {event.job[:12]} is already in progress")
    if state.outcomes.rejections.get(event.job) is not None:
        raise illegal(event, "rejected", f"the file of {event.job[:12]} still has to be moved to rejected/")
    job = Job(
        id=event.job,
        name=event.name,
        size_bytes=event.size_bytes,
        priority=event.priority,
        trained_from=event.retrain,
    )
    return replace(state, queue=state.queue.push(job))


def _file_duplicate(state: State, _event: kinds.FileDuplicate) -> State:
    return replace(state, outcomes=state.outcomes.counted("duplicates"))


def _waiting_job(state: State, event: Any) -> Job:
    """The job in the queue. Raises IllegalEvent unless the event may happen to it, by its table."""
    job = state.queue.get(event.job)
    if job is None:
        raise illegal(event, "settled", f"job {event.job[:12]} does not wait")
    status_after(job, event)
    return job


def _job_moved(state: State, event: kinds.JobMoved) -> State:
    job = _waiting_job(state, event)
    if event.before is not None:
        before = state.queue.get(event.before)
        if before is None or before is job or before.priority != event.priority:
            raise illegal(event, job.status, f"{event.before[:12]} is no other job of that lane")
    return replace(state, queue=state.queue.moved(job.id, event.priority, event.before))


def _job_held(state: State, event: kinds.JobHeld) -> State:
    return replace(state, queue=state.queue.hold(_waiting_job(state, event).id))


def _job_released(state: State, event: kinds.JobReleased) -> State:
    return replace(state, queue=state.queue.release(_waiting_job(state, event).id))


def _job_removed(state: State, event: kinds.JobRemoved) -> State:
    waiting = state.queue.get(event.job)
    job = waiting or state.outcomes.failed.get(event.job)
    if job is None:
        raise illegal(event, "settled", f"job {event.job[:12]} neither waits nor has failed")
    status_after(job, event)
    if job.begun or (job.trained_from and not event.keeps_data):
        raise illegal(event, job.status, "weights were trained on it")
    outcomes = state.outcomes.counted("removed")
    if not event.keeps_data:
        rejection = Rejection(event.name, "removed", None, REMOVED)
        outcomes = replace(outcomes, rejections=outcomes.rejections.insert(job.id, rejection))
    if waiting is not None:
        return replace(state, queue=state.queue.remove(job.id), outcomes=outcomes)
    return replace(state, outcomes=replace(outcomes, failed=outcomes.failed.remove(job.id)))


EVOLVE: EvolveTable = {
    kinds.FileEnqueued: _file_enqueued,
    kinds.FileDuplicate: _file_duplicate,
    kinds.JobMoved: _job_moved,
    kinds.JobHeld: _job_held,
    kinds.JobReleased: _job_released,
    kinds.JobRemoved: _job_removed,
}
