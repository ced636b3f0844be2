"""Attempts at jobs: how they start and end."""

from __future__ import annotations

from typing import Literal

from events.event import Event
from events.settings import JobSettings
from events.values import Failure, JobId


class AttemptStarted(Event, frozen=True, kw_only=True, tag="attempt_started"):
    """A worker got a job. Attempts are numbered over the life of the home."""

    v: Literal[10] = 10
    job: JobId
    attempt: int
    settings: JobSettings


class AttemptInterrupted(Event, frozen=True, kw_only=True, tag="attempt_interrupted"):
    """The daemon ended during the attempt, as the next daemon found. This does not count as a failure."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    reason: str


class AttemptYielded(Event, frozen=True, kw_only=True, tag="attempt_yielded"):
    """The worker was asked to yield and stopped at a step boundary, with all steps committed."""

    v: Literal[1] = 1
    job: JobId
    attempt: int


class AttemptFailed(Event, frozen=True, kw_only=True, tag="attempt_failed"):
    """The attempt failed before the job was done."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    failure: Failure
    message: str
    retry_at: float | None
    """No retry before this time. Unix time, seconds. None: no automatic retry; the next event says what the job waits
    for."""
