"""Jobs on their way in, through the queue and out of it untouched: events in, state out. A part of `evolve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from core.job import Job, JobStatus
from core.moves import illegal
from core.state import Rejection, State
from core.transitions import JOB
from events import kinds, places
from events.codec import kind_of
from events.event import Event


def _file_enqueued(state: State, event: kinds.FileEnqueued) -> State:
    if state.job(event.job) is not None:
        raise illegal(event, "queued", f"job {event.job[:12]} is in hand already")
    if state.rejections.get(event.job) is not None:
        raise illegal(event, "rejected", f"the file of {event.job[:12]} still has to be moved to rejected/")
    job = Job(
        id=event.job,
        name=event.name,
        size_bytes=event.size_bytes,
        priority=event.priority,
        trained_from=event.again,
    )
    return replace(state, queue=state.queue.push(job))


def _file_duplicate(state: State, _event: kinds.FileDuplicate) -> State:
    return replace(state, counts=replace(state.counts, duplicates=state.counts.duplicates + 1))


def _status_after(job: Job, event: Event) -> JobStatus:
    status = JOB[job.status].get(kind_of(event))
    if status is None:
        raise illegal(event, job.status)
    return status


def _waiting(state: State, event: Any) -> Job:
    """The job in the queue, which the event may happen to by its table."""
    job = state.queue.get(event.job)
    if job is None:
        raise illegal(event, "settled", f"job {event.job[:12]} does not wait")
    _status_after(job, event)
    return job


def _job_moved(state: State, event: places.JobMoved) -> State:
    job = _waiting(state, event)
    if event.before is not None:
        before = state.queue.get(event.before)
        if before is None or before is job or before.priority != event.priority:
            raise illegal(event, job.status, f"{event.before[:12]} is no other job of that lane")
    return replace(state, queue=state.queue.moved(job.id, event.priority, event.before))


def _job_held(state: State, event: places.JobHeld) -> State:
    return replace(state, queue=state.queue.hold(_waiting(state, event).id))


def _job_released(state: State, event: places.JobReleased) -> State:
    return replace(state, queue=state.queue.release(_waiting(state, event).id))


def _job_removed(state: State, event: places.JobRemoved) -> State:
    job = state.queue.get(event.job) or state.failed.get(event.job)
    if job is None:
        raise illegal(event, "settled", f"job {event.job[:12]} neither waits nor has failed")
    _status_after(job, event)
    if job.begun or (job.trained_from and not event.keeps_data):
        raise illegal(event, job.status, "weights hold what was learned from it")
    rejections = state.rejections
    if not event.keeps_data:
        rejections = rejections.insert(job.id, Rejection(event.name, "removed", None, REMOVED))
    waited = state.queue.get(job.id) is not None
    return replace(
        state,
        queue=state.queue.remove(job.id) if waited else state.queue,
        failed=state.failed if waited else state.failed.remove(job.id),
        rejections=rejections,
        counts=replace(state.counts, removed=state.counts.removed + 1),
    )


REMOVED = "a person took it out of the queue; nothing is wrong with it, and it can be dropped in again"
"""What stands in the report beside the file."""


def _rejected_file_moved(state: State, event: kinds.RejectedFileMoved) -> State:
    if state.rejections.get(event.job) is None:
        raise illegal(event, "settled", f"no rejection of {event.job[:12]} is open")
    return replace(state, rejections=state.rejections.remove(event.job))


WAITING: Mapping[type[Event], Callable[[State, Any], State]] = {
    kinds.FileEnqueued: _file_enqueued,
    kinds.FileDuplicate: _file_duplicate,
    places.JobMoved: _job_moved,
    places.JobHeld: _job_held,
    places.JobReleased: _job_released,
    places.JobRemoved: _job_removed,
    kinds.RejectedFileMoved: _rejected_file_moved,
}
