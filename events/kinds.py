"""Every fact that keepstep journals, in the past tense.

The tag (`kind`) and the version (`v`) are what stands on disk: both are pinned, and neither is ever reused for
another meaning. To change an event's shape, raise its version and add an upcaster in `codec.py`; stored bytes stay
as they are.

Events carry decisions, never rules: if a retry is to wait, `attempt_failed` says until when, so that a replay years
later, by newer rules, arrives at the same state.
"""

from __future__ import annotations

from typing import Literal, get_args

from events import changes, evaluation, guard, memory, places, versions
from events.event import Event
from events.settings import JobSettings, Plan
from events.trained import Trained
from events.upkeep import OrphanEnded, WatchCostMeasured
from events.values import CheckpointId, Failure, JobId, Number, Priority

CheckpointReason = Literal["steps", "time", "end", "yield"]


class HomeCreated(Event, frozen=True, kw_only=True, tag="home_created"):
    """The first record of every journal."""

    v: Literal[1] = 1
    home_id: str
    keepstep: str


class DaemonStarted(Event, frozen=True, kw_only=True, tag="daemon_started"):
    """A daemon took the home. `pid` alone names nobody: pids are reused, so the start time and the boot go with it."""

    v: Literal[1] = 1
    pid: int
    process_started_at: float
    boot_id: str
    host: str
    keepstep: str


class DaemonStopped(Event, frozen=True, kw_only=True, tag="daemon_stopped"):
    """The daemon left in good order, all it had learned committed."""

    v: Literal[1] = 1
    reason: str


class DaemonHeld(Event, frozen=True, kw_only=True, tag="daemon_held"):
    """keepstep stopped working by itself because a person is needed; `keepstep resume` goes on."""

    v: Literal[1] = 1
    reason: str
    advice: str


class PauseRequested(Event, frozen=True, kw_only=True, tag="pause_requested"):
    """Work is to stop at the next step boundary, and not to go on by itself."""

    v: Literal[1] = 1


class Resumed(Event, frozen=True, kw_only=True, tag="resumed"):
    """Work may go on."""

    v: Literal[1] = 1


class StopRequested(Event, frozen=True, kw_only=True, tag="stop_requested"):
    """The daemon is to commit and leave."""

    v: Literal[1] = 1


class FileEnqueued(Event, frozen=True, kw_only=True, tag="file_enqueued"):
    """A data file was accepted: from here on it is a job, and its bytes are keepstep's to keep."""

    v: Literal[2] = 2
    job: JobId
    name: str
    """What the person called the file."""
    size_bytes: int
    priority: Priority
    again: bool
    """A person asked for bytes that may have been learned before to be learned once more."""


class FileDuplicate(Event, frozen=True, kw_only=True, tag="file_duplicate"):
    """A file with the very bytes of an earlier one arrived; it is not learned again."""

    v: Literal[1] = 1
    job: JobId
    name: str


class AttemptStarted(Event, frozen=True, kw_only=True, tag="attempt_started"):
    """A worker was given a job. Attempts are numbered over the whole life of the home."""

    v: Literal[6] = 6
    job: JobId
    attempt: int
    settings: JobSettings


class JobPrepared(Event, frozen=True, kw_only=True, tag="job_prepared"):
    """Every row was read and tokenised; the batches are planned."""

    v: Literal[2] = 2
    job: JobId
    attempt: int
    plan: Plan


class JobRejected(Event, frozen=True, kw_only=True, tag="job_rejected"):
    """The file cannot be learned from. It goes to `rejected/` with a report that says this."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    name: str
    problem: str
    """A name that scripts can match: `broken_json`, `no_trainable_tokens`, …"""
    line: int | None
    """1 is the first line; None where the file as a whole is the problem."""
    message: str


class RejectedFileMoved(Event, frozen=True, kw_only=True, tag="rejected_file_moved"):
    """The outcome of a rejection: the file stands in `rejected/` beside its report."""

    v: Literal[1] = 1
    job: JobId
    path: str
    """Relative to the home."""


class TrainingStarted(Event, frozen=True, kw_only=True, tag="training_started"):
    """Model, weights and optimizer are loaded: the next step is `global_step` + 1, `step` + 1 of this job."""

    v: Literal[2] = 2
    job: JobId
    attempt: int
    global_step: int
    step: int
    checkpoint: CheckpointId | None
    environment: dict[str, str]
    """What decides the bits: library versions, device, threads, CPU capability."""
    changed: tuple[str, ...]
    """What is not as it was when this job last trained: bits may differ from here on, and this says why."""
    trained: Trained | None = None
    """What is trained of the model; None in records of version 1."""


class StepReached(Event, frozen=True, kw_only=True, tag="step_reached"):
    """One optimizer step. Its loss and gradient norm are the proof that a step run again is the same step.

    A step whose batch was set aside keeps its number and changes nothing: it has loss NaN, for none was computed,
    gradient norm and learning rate 0, and no tokens.
    """

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: int
    """Counts from 1 within the job."""
    epoch: int
    loss: Number
    """Cross-entropy per trained token, nats, over the whole step."""
    grad_norm: Number
    learning_rate: float
    tokens: int
    """Trained and context tokens, padding left out."""
    seconds: float


class DivergenceDetected(Event, frozen=True, kw_only=True, tag="divergence_detected"):
    """A step that was run again did not give the same bits."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: int
    loss: Number
    grad_norm: Number
    expected_loss: Number
    expected_grad_norm: Number


class CheckpointCommitted(Event, frozen=True, kw_only=True, tag="checkpoint_committed"):
    """This record is the commit: the directory counts from here on, and before it did not."""

    v: Literal[1] = 1
    checkpoint: CheckpointId
    job: JobId
    attempt: int
    global_step: int
    step: int
    parent: CheckpointId | None
    size_bytes: int
    manifest_sha256: str
    reason: CheckpointReason


class CheckpointPruned(Event, frozen=True, kw_only=True, tag="checkpoint_pruned"):
    """Retention gave this checkpoint up. Journaled first, deleted after: a crash between leaves debris, never a gap."""

    v: Literal[2] = 2
    checkpoint: CheckpointId
    size_bytes: int
    """That come free."""


class CheckpointQuarantined(Event, frozen=True, kw_only=True, tag="checkpoint_quarantined"):
    """A committed checkpoint is not what was committed. It is set aside, and `head` is used instead."""

    v: Literal[1] = 1
    checkpoint: CheckpointId
    problem: str
    head: CheckpointId | None


class PartialSwept(Event, frozen=True, kw_only=True, tag="partial_swept"):
    """Something half-written, or no longer named by the journal, was removed."""

    v: Literal[1] = 1
    path: str
    """Relative to the home."""
    size_bytes: int


class JobTrained(Event, frozen=True, kw_only=True, tag="job_trained"):
    """Every step of the job is committed."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    checkpoint: CheckpointId


class AttemptInterrupted(Event, frozen=True, kw_only=True, tag="attempt_interrupted"):
    """The daemon was gone in the middle; found by the next one. Nobody's fault: it does not count as a failure."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    reason: str


class AttemptYielded(Event, frozen=True, kw_only=True, tag="attempt_yielded"):
    """The worker stopped at a step boundary because it was asked to, all steps committed."""

    v: Literal[1] = 1
    job: JobId
    attempt: int


class AttemptFailed(Event, frozen=True, kw_only=True, tag="attempt_failed"):
    """The attempt ended by itself, before the job did."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    failure: Failure
    message: str
    retry_at: float | None
    """Unix time, seconds: not before then. None: time alone does not help; what follows says what is waited for."""


class JobFailed(Event, frozen=True, kw_only=True, tag="job_failed"):
    """keepstep gave the job up; the file stays in `data/`, and `keepstep retry` brings the job back."""

    v: Literal[1] = 1
    job: JobId
    message: str


class JobRetried(Event, frozen=True, kw_only=True, tag="job_retried"):
    """A person asked for a failed job again."""

    v: Literal[1] = 1
    job: JobId


class JobSkipRequested(Event, frozen=True, kw_only=True, tag="job_skip_requested"):
    """The running job is to end at the next step boundary."""

    v: Literal[1] = 1
    job: JobId


class JobSkipped(Event, frozen=True, kw_only=True, tag="job_skipped"):
    """A person passed the job over. What it had learned and committed stays learned."""

    v: Literal[1] = 1
    job: JobId


class StorageExhausted(Event, frozen=True, kw_only=True, tag="storage_exhausted"):
    """The disk is full: nothing is begun until there is room. Written from the journal's reserve."""

    v: Literal[2] = 2
    message: str
    wanted_bytes: int
    """That must be free before work goes on."""


class StorageFreed(Event, frozen=True, kw_only=True, tag="storage_freed"):
    """There is room on the disk again; work goes on by itself."""

    v: Literal[1] = 1
    free_bytes: int


class StorageLow(Event, frozen=True, kw_only=True, tag="storage_low"):
    """Less is free than the config wants left alone: what retention may give up goes at once."""

    v: Literal[1] = 1
    free_bytes: int
    wanted_bytes: int


class StorageRecovered(Event, frozen=True, kw_only=True, tag="storage_recovered"):
    """As much is free again as the config wants left alone."""

    v: Literal[1] = 1
    free_bytes: int


class JournalRepaired(Event, frozen=True, kw_only=True, tag="journal_repaired"):
    """A person gave records up that were damaged: everything from `first_seq` to `last_seq`."""

    v: Literal[1] = 1
    first_seq: int
    last_seq: int
    problem: str


AnyEvent = (
    HomeCreated
    | DaemonStarted
    | DaemonStopped
    | DaemonHeld
    | PauseRequested
    | Resumed
    | StopRequested
    | FileEnqueued
    | FileDuplicate
    | places.AnyPlace
    | AttemptStarted
    | JobPrepared
    | JobRejected
    | RejectedFileMoved
    | TrainingStarted
    | StepReached
    | DivergenceDetected
    | guard.AnyDetour
    | evaluation.AnyOfEvaluation
    | CheckpointCommitted
    | CheckpointPruned
    | CheckpointQuarantined
    | PartialSwept
    | JobTrained
    | AttemptInterrupted
    | AttemptYielded
    | AttemptFailed
    | JobFailed
    | JobRetried
    | JobSkipRequested
    | JobSkipped
    | StorageExhausted
    | StorageFreed
    | StorageLow
    | StorageRecovered
    | JournalRepaired
    | versions.AnyOfVersions
    | OrphanEnded
    | WatchCostMeasured
    | memory.AnyOfMemory
    | changes.AnyChange
)

EVENT_TYPES: tuple[type[Event], ...] = get_args(AnyEvent)
