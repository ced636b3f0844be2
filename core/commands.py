"""Commands of a person or the daemon. `decide` turns each into events, or refuses it with a reason.

Reports of the worker (`events.messages`) are decided on in the same way.
"""

from __future__ import annotations

from msgspec import Struct

from core.values import DetachedCheckpoint
from events.evaluation import TaskScore
from events.kinds import Change, SelfCorrectionFileQueued
from events.messages import AnyFact, WorkerPhase
from events.self_correction import StopCause
from events.settings import DiskSettings, Gate, JobSettings, MemorySettings, RetentionSettings, VersionSettings
from events.values import Failure, Priority


class Command(Struct, frozen=True, kw_only=True):
    """A request; its fields carry what only the outside knows."""


class CreateHome(Command, frozen=True, kw_only=True):
    """Start a journal."""

    home_id: str
    keepstep: str


class StartDaemon(Command, frozen=True, kw_only=True):
    """Take the home. The sender holds the daemon lock, so an attempt that still runs has lost its daemon."""

    pid: int
    process_started_at: float
    boot_id: str
    host: str
    keepstep: str


class StopDaemon(Command, frozen=True, kw_only=True):
    """Record that the daemon stops."""

    reason: str


class AddFile(Command, frozen=True, kw_only=True):
    """Queue a complete file that keepstep now keeps. `known`: these bytes were accepted before; `retrain`: train on
    them again all the same."""

    job: str
    name: str
    size_bytes: int
    priority: Priority
    known: bool
    retrain: bool = False


class MoveJob(Command, frozen=True, kw_only=True):
    """Move a waiting job to the front of a lane, directly before another job, or to the back.

    `priority` = None: the lane of the job `before`, or else its own.
    """

    job: str
    priority: Priority | None = None
    first: bool = False
    before: str | None = None


class HoldJob(Command, frozen=True, kw_only=True):
    """Hold a waiting job: the queue passes it over until `ReleaseJob`."""

    job: str


class ReleaseJob(Command, frozen=True, kw_only=True):
    """Release a held job."""

    job: str


class RemoveJob(Command, frozen=True, kw_only=True):
    """Remove a job that nothing was trained on."""

    job: str


class Pause(Command, frozen=True, kw_only=True):
    """Stop working at the next step boundary, until `Resume`."""


class Resume(Command, frozen=True, kw_only=True):
    """Resume work."""


class Stop(Command, frozen=True, kw_only=True):
    """Ask the daemon to commit and stop; `alive`: a daemon process really runs."""

    alive: bool


class Skip(Command, frozen=True, kw_only=True):
    """Skip a job; None: the current one."""

    job: str | None = None


class Retry(Command, frozen=True, kw_only=True):
    """Queue a failed job again."""

    job: str


class StartAttempt(Command, frozen=True, kw_only=True):
    """Start an attempt at a job, under the settings that the config file holds now."""

    job: str
    settings: JobSettings


class ReportWorkerLost(Command, frozen=True, kw_only=True):
    """Report that the worker of this attempt is gone, or had to be killed."""

    attempt: int
    failure: Failure
    message: str
    phase: WorkerPhase | None = None
    """What it was doing; None: unknown."""


class RequestSamples(Command, frozen=True, kw_only=True):
    """Ask for samples at the next step; `alive`: a daemon process really runs."""

    alive: bool


class RecordCorrectionFile(Command, frozen=True, kw_only=True):
    """Record that a file of self-correction is in the queue."""

    queued: SelfCorrectionFileQueued


class StopSelfCorrection(Command, frozen=True, kw_only=True):
    """Stop self-correction until a person resumes it."""

    cause: StopCause
    message: str


class ResumeSelfCorrection(Command, frozen=True, kw_only=True):
    """Resume self-correction after it stopped itself."""


class HoldWork(Command, frozen=True, kw_only=True):
    """Stop work until a person resumes it."""

    reason: str
    advice: str


class QuarantineCheckpoint(Command, frozen=True, kw_only=True):
    """Quarantine a committed checkpoint, the head or one before it, that was found damaged while no attempt ran."""

    checkpoint: str
    problem: str


class PruneCheckpoints(Command, frozen=True, kw_only=True):
    """Delete all committed checkpoints but the newest `keep`."""

    keep: int


class RequestConsolidation(Command, frozen=True, kw_only=True):
    """Request a consolidation, for when nothing trains; `scheduled_for`: the date of the schedule that asks."""

    description: str
    after_current: bool = False
    scheduled_for: str | None = None


class CancelConsolidation(Command, frozen=True, kw_only=True):
    """Cancel the request for a consolidation."""


class StartConsolidation(Command, frozen=True, kw_only=True):
    """Start the requested consolidation."""

    gate: Gate | None = None
    """What the evaluation of the version decides; None: it is not evaluated."""


class RequestEvaluation(Command, frozen=True, kw_only=True):
    """Request the evaluation of a version, for when nothing trains."""

    version: str


class RecordTasks(Command, frozen=True, kw_only=True):
    """Journal the scores of tasks that were run on a version."""

    version: str
    scores: tuple[TaskScore, ...]
    limit: int | None
    seconds: float
    device: str
    harness: str


class StartEvaluation(Command, frozen=True, kw_only=True):
    """Start the first pending evaluation, under the limits that the config file holds now."""

    settings: VersionSettings
    has_suites: bool = True
    """There are held-out rows or questions."""


class PromoteVersion(Command, frozen=True, kw_only=True):
    """Move the head to a version that is held."""

    version: str


class DiscardVersion(Command, frozen=True, kw_only=True):
    """Delete a version that is held."""

    version: str


class MoveHead(Command, frozen=True, kw_only=True):
    """Move the head to a version, a detached checkpoint, the content of a backup, or (all None) the origin."""

    version: str | None = None
    checkpoint: str | None = None
    backup: str | None = None


class RollBack(Command, frozen=True, kw_only=True):
    """Move the head back by one: to its base, or from there to the version before it."""


class RecordRestored(Command, frozen=True, kw_only=True):
    """Record that the head was restored from its backup."""


class DeleteVersion(Command, frozen=True, kw_only=True):
    """Delete a version, or a detached checkpoint."""

    version: str


class RecordBackup(Command, frozen=True, kw_only=True):
    """Record a backup that was made and verified."""

    backup: str
    reason: str
    held: DetachedCheckpoint
    size_bytes: int
    manifest_sha256: str


class DeleteBackups(Command, frozen=True, kw_only=True):
    """Delete backups older than so many days."""

    older_than_days: float


class Retain(Command, frozen=True, kw_only=True):
    """Delete what the config does not want to keep."""

    retention: RetentionSettings


class RecordLeftoverDeleted(Command, frozen=True, kw_only=True):
    """Record that a leftover file was deleted."""

    path: str
    size_bytes: int


class RecordRejectedMoved(Command, frozen=True, kw_only=True):
    """Record that a rejected file is in `rejected/`."""

    job: str
    path: str


class MeasureDisk(Command, frozen=True, kw_only=True):
    """Apply the limits of the config to the free disk space."""

    free_bytes: int
    disk: DiskSettings
    retention: RetentionSettings
    total_bytes: int = 0
    """Size of the disk, for the limit "auto"."""
    model_bytes: int = 0
    """Size of the model's weights, for the limit "auto" before the first version; 0: unknown."""


class MeasureMemory(Command, frozen=True, kw_only=True):
    """Apply the limits of the config to the memory of the machine, of other processes, and of the worker."""

    total_bytes: int
    available_bytes: int
    worker_bytes: int
    groups: tuple[tuple[int, int], ...] = ()
    """For each control group with a limit: total (the limit) and available bytes."""
    limits: MemorySettings


class RecordConfig(Command, frozen=True, kw_only=True):
    """Record that keepstep.toml was read again: what it changes at once, or why it cannot be used and what to do."""

    changes: tuple[Change, ...] = ()
    problem: str | None = None
    advice: str = ""


class ReportDiskFull(Command, frozen=True, kw_only=True):
    """Report that the disk is full: end what runs, and start nothing until space is free."""

    message: str
    wanted_bytes: int = 0
    """Bytes that must be free before work resumes; `decide` may want more."""


class ReportDiskFree(Command, frozen=True, kw_only=True):
    """Report the free disk space; work resumes if it is enough."""

    free_bytes: int


class RecordOrphan(Command, frozen=True, kw_only=True):
    """Record that a worker of an earlier daemon was ended; fields as in `orphan_ended`."""

    pid: int
    started_at: float
    command: str


class RecordOverhead(Command, frozen=True, kw_only=True):
    """Record what the daemon itself took; fields as in `overhead_measured`."""

    wall_s: float
    cpu_s: float
    training_s: float
    training_cpu_s: float
    parts: dict[str, float]


AnyCommand = (
    CreateHome
    | StartDaemon
    | StopDaemon
    | AddFile
    | MoveJob
    | HoldJob
    | ReleaseJob
    | RemoveJob
    | Pause
    | Resume
    | Stop
    | Skip
    | Retry
    | StartAttempt
    | ReportWorkerLost
    | RequestSamples
    | RecordCorrectionFile
    | StopSelfCorrection
    | ResumeSelfCorrection
    | HoldWork
    | QuarantineCheckpoint
    | PruneCheckpoints
    | RequestConsolidation
    | CancelConsolidation
    | StartConsolidation
    | RequestEvaluation
    | RecordTasks
    | StartEvaluation
    | PromoteVersion
    | DiscardVersion
    | MoveHead
    | RollBack
    | RecordRestored
    | DeleteVersion
    | RecordBackup
    | DeleteBackups
    | Retain
    | RecordLeftoverDeleted
    | RecordRejectedMoved
    | MeasureDisk
    | MeasureMemory
    | RecordConfig
    | ReportDiskFull
    | ReportDiskFree
    | RecordOrphan
    | RecordOverhead
    | AnyFact
)
