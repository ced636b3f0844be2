"""What a person does with a job that waits: facts, in the past tense, as in `kinds.py`."""

from __future__ import annotations

from typing import Literal

from events.event import Event
from events.values import JobId, Priority


class JobMoved(Event, frozen=True, kw_only=True, tag="job_moved"):
    """A person gave a waiting job another place in the queue."""

    v: Literal[1] = 1
    job: JobId
    priority: Priority
    before: JobId | None
    """The job that it stands directly before now, in that lane; None: at the back of it."""


class JobHeld(Event, frozen=True, kw_only=True, tag="job_held"):
    """A person wants a waiting job passed over, its place kept, until it is released."""

    v: Literal[1] = 1
    job: JobId


class JobReleased(Event, frozen=True, kw_only=True, tag="job_released"):
    """A held job waits for its turn again."""

    v: Literal[1] = 1
    job: JobId


class JobRemoved(Event, frozen=True, kw_only=True, tag="job_removed"):
    """A person took a job back that nothing was learned from. Its file goes to `rejected/`, and is known no more."""

    v: Literal[1] = 1
    job: JobId
    name: str
    keeps_data: bool
    """Weights hold what an earlier pass learned from the file: it stays in `data/`, and `rejected/` gets nothing."""


AnyPlace = JobMoved | JobHeld | JobReleased | JobRemoved
