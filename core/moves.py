"""What the handlers of `evolve` need: to refuse an event, and to move the daemon or the job in hand on by its table."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from core.errors import IllegalEvent
from core.job import Job
from core.state import State
from core.transitions import DAEMON, JOB
from events.codec import kind_of
from events.event import Event


def illegal(event: Event, status: str, reason: str = "") -> IllegalEvent:
    """That `event` cannot follow; to be raised."""
    return IllegalEvent(kind_of(event), status, reason)


def daemon_moved(state: State, event: Event, kind: str | None = None) -> State:
    """`state` with the daemon moved on by its table. Raises IllegalEvent."""
    status = DAEMON[state.daemon.status].get(kind or kind_of(event))
    if status is None:
        raise illegal(event, state.daemon.status)
    return replace(state, daemon=replace(state.daemon, status=status))


def current_job(state: State, event: Any) -> Job:
    """The job in hand, which the event must be about; where it names an attempt, it must be the running one."""
    job = state.current
    if job is None or job.id != event.job:
        raise illegal(event, job.status if job else "idle", f"job {event.job[:12]} is not the current one")
    attempt = getattr(event, "attempt", state.attempt)
    if attempt != state.attempt:
        raise illegal(event, job.status, f"attempt {attempt} is not the running one ({state.attempt})")
    return job


def running_job(state: State, event: Any) -> Job:
    """The current job, moved on by its table. The attempt must be the one that runs."""
    job = current_job(state, event)
    status = JOB[job.status].get(kind_of(event))
    if status is None:
        raise illegal(event, job.status)
    return replace(job, status=status)
