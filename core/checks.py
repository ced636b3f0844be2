"""Checks that several topics share: refuse an event or a command, or move the daemon or the current job by its
table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict, replace

from core.errors import IllegalEvent, Refused
from core.job import Job
from core.tables import Decide, Events
from core.transitions import DAEMON, JOB, OFF, JobStatus
from events import kinds
from events.codec import kind_of
from events.event import Event
from events.kinds import AnyEvent

if TYPE_CHECKING:
    from core.state import State


def illegal(event: Event, status: str, reason: str = "") -> IllegalEvent:
    """The error to raise for an event that cannot follow."""
    return IllegalEvent(kind_of(event), status, reason)


def refuse_unless_idle(state: State) -> None:
    """Raises Refused unless a daemon is on and no attempt runs."""
    if state.attempts.current is not None:
        raise Refused(f"attempt {state.attempts.current} is still running")
    if state.daemon.status in OFF:
        raise Refused("no daemon runs in this home")


def hold(state: State, reason: str, advice: str) -> Events:
    """Stop work until a person resumes it; nothing if the daemon is held for this reason already."""
    if state.daemon.hold is not None and state.daemon.hold.reason == reason:
        return []
    return [kinds.DaemonHeld(reason=reason, advice=advice)]


def move_daemon(state: State, event: Event, kind: str | None = None) -> State:
    """Move the daemon by its table. Raises IllegalEvent."""
    status = DAEMON[state.daemon.status].get(kind or kind_of(event))
    if status is None:
        raise illegal(event, state.daemon.status)
    return replace(state, daemon=replace(state.daemon, status=status))


def status_after(job: Job, event: Event) -> JobStatus:
    """The status of a job after the event, by its table. Raises IllegalEvent."""
    status = JOB[job.status].get(kind_of(event))
    if status is None:
        raise illegal(event, job.status)
    return status


def current_job(state: State, event: Any) -> Job:
    """The current job. Raises IllegalEvent if the event is about another job or another attempt."""
    job = state.training.current
    if job is None or job.id != event.job:
        raise illegal(event, job.status if job else "idle", f"job {event.job[:12]} is not the current one")
    attempt = getattr(event, "attempt", state.attempts.current)
    if attempt != state.attempts.current:
        raise illegal(event, job.status, f"attempt {attempt} is not the running one ({state.attempts.current})")
    return job


def move_current_job(state: State, event: Any) -> Job:
    """The current job, moved by its table. Raises IllegalEvent."""
    job = current_job(state, event)
    return replace(job, status=status_after(job, event))


def reporting_job(state: State, report: Any) -> Job | None:
    """The job that a worker's report is about; None: the report comes from an attempt that no longer runs."""
    return state.training.current if report.attempt == state.attempts.current else None


def journaled(kind: Callable[..., AnyEvent]) -> Decide:
    """A handler for reports that become the event of this kind, with the same fields and the job."""

    def handler(state: State, report: Any, _now: float) -> Events:
        job = reporting_job(state, report)
        return [] if job is None else [kind(job=job.id, **asdict(report))]

    return handler
