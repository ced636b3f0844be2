"""Files and jobs: how they arrive, wait, and end."""

from __future__ import annotations

from typing import Literal

from events.event import Event
from events.values import CheckpointId, JobId, Priority


class FileEnqueued(Event, frozen=True, kw_only=True, tag="file_enqueued"):
    """A data file was accepted. From here on it is a job, and keepstep keeps its bytes."""

    v: Literal[3] = 3
    job: JobId
    name: str
    """The name of the file in the inbox."""
    size_bytes: int
    priority: Priority
    retrain: bool
    """A person asked to train on these bytes again, though they were accepted before."""


class FileDuplicate(Event, frozen=True, kw_only=True, tag="file_duplicate"):
    """A file arrived that is identical to an earlier one; it is not trained on again."""

    v: Literal[1] = 1
    job: JobId
    name: str


class JobMoved(Event, frozen=True, kw_only=True, tag="job_moved"):
    """A person moved a waiting job to another place in the queue."""

    v: Literal[1] = 1
    job: JobId
    priority: Priority
    before: JobId | None
    """The job that it now stands directly before, in that lane; None: at the back."""


class JobHeld(Event, frozen=True, kw_only=True, tag="job_held"):
    """A person held a waiting job: it keeps its place, and the queue passes it over until it is released."""

    v: Literal[1] = 1
    job: JobId


class JobReleased(Event, frozen=True, kw_only=True, tag="job_released"):
    """A person released a held job."""

    v: Literal[1] = 1
    job: JobId


class JobRemoved(Event, frozen=True, kw_only=True, tag="job_removed"):
    """A person removed a job that nothing was trained on. Its file moves to `rejected/` and is no longer known."""

    v: Literal[1] = 1
    job: JobId
    name: str
    keeps_data: bool
    """An earlier pass trained on the file, so it stays in `data/`."""


class JobTrained(Event, frozen=True, kw_only=True, tag="job_trained"):
    """Every step of the job is committed."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    checkpoint: CheckpointId


class JobRejected(Event, frozen=True, kw_only=True, tag="job_rejected"):
    """The file cannot be trained on. It moves to `rejected/`, with a report that says why."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    name: str
    problem: str
    """A name for scripts: `broken_json`, `no_trainable_tokens`, …"""
    line: int | None
    """1 is the first line; None where the file as a whole is the problem."""
    message: str


class RejectedFileMoved(Event, frozen=True, kw_only=True, tag="rejected_file_moved"):
    """The rejected file is in `rejected/`, next to its report."""

    v: Literal[1] = 1
    job: JobId
    path: str
    """Relative to the home."""


class JobSkipRequested(Event, frozen=True, kw_only=True, tag="job_skip_requested"):
    """A person skipped the running job: it ends at the next step boundary."""

    v: Literal[1] = 1
    job: JobId


class JobSkipped(Event, frozen=True, kw_only=True, tag="job_skipped"):
    """The job ended because a person skipped it. Its committed steps stay trained."""

    v: Literal[1] = 1
    job: JobId


class JobFailed(Event, frozen=True, kw_only=True, tag="job_failed"):
    """The job failed permanently. Its file stays in `data/`, and `keepstep retry` queues the job again."""

    v: Literal[1] = 1
    job: JobId
    message: str


class JobRetried(Event, frozen=True, kw_only=True, tag="job_retried"):
    """A person queued a failed job again."""

    v: Literal[1] = 1
    job: JobId
