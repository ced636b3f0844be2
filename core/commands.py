"""What a person or the daemon wants. `decide` turns each into events, or refuses it with a reason.

What a worker reports (`events.worker`) is decided on in the same way.
"""

from __future__ import annotations

from msgspec import Struct

from core.versions import DetachedCheckpoint
from events.changes import Change
from events.settings import DiskSettings, JobSettings, MemorySettings, RetentionSettings
from events.values import Failure, Priority
from events.worker import AnyFact


class Command(Struct, frozen=True, kw_only=True):
    """Something wanted; facts that only the outside knows come along as fields."""


class CreateHome(Command, frozen=True, kw_only=True):
    """Begin a journal."""

    home_id: str
    keepstep: str


class StartDaemon(Command, frozen=True, kw_only=True):
    """Take the home. Whoever sends this holds the daemon lock: an attempt that still runs lost its daemon."""

    pid: int
    process_started_at: float
    boot_id: str
    host: str
    keepstep: str


class StopDaemon(Command, frozen=True, kw_only=True):
    """The daemon is done."""

    reason: str


class AddFile(Command, frozen=True, kw_only=True):
    """A complete file arrived and stands in keepstep's hands; `known`: its bytes had been accepted before.

    `again`: they are to be learned all the same.
    """

    job: str
    name: str
    size_bytes: int
    priority: Priority
    known: bool
    again: bool = False


class MoveJob(Command, frozen=True, kw_only=True):
    """Give a waiting job another place: the front of its lane, directly before another job, or the back.

    None of `priority`: its own lane stays, or with `before` it is that job's.
    """

    job: str
    priority: Priority | None = None
    first: bool = False
    before: str | None = None


class HoldJob(Command, frozen=True, kw_only=True):
    """Pass a waiting job over until `ReleaseJob`."""

    job: str


class ReleaseJob(Command, frozen=True, kw_only=True):
    """Let a held job have its turn."""

    job: str


class RemoveJob(Command, frozen=True, kw_only=True):
    """Take a job back that nothing was learned from."""

    job: str


class Pause(Command, frozen=True, kw_only=True):
    """Stop working at the next step boundary, until `Resume`."""


class Resume(Command, frozen=True, kw_only=True):
    """Work again."""


class Stop(Command, frozen=True, kw_only=True):
    """Commit and leave; `alive`: a daemon process really runs."""

    alive: bool


class Skip(Command, frozen=True, kw_only=True):
    """Pass a job over; None: the current one."""

    job: str | None = None


class Retry(Command, frozen=True, kw_only=True):
    """Bring a failed job back."""

    job: str


class StartAttempt(Command, frozen=True, kw_only=True):
    """Give a job to a worker, under the settings that the config file holds now."""

    job: str
    settings: JobSettings


class ReportWorkerLost(Command, frozen=True, kw_only=True):
    """The worker of this attempt is gone, or had to be killed."""

    attempt: int
    failure: Failure
    message: str
    evaluating: bool = False
    """It was in an evaluation then."""


class HoldWork(Command, frozen=True, kw_only=True):
    """Something needs a person before work can go on."""

    reason: str
    advice: str


class QuarantineCheckpoint(Command, frozen=True, kw_only=True):
    """A committed checkpoint, the head or one behind it, was found to be bad while no attempt ran."""

    checkpoint: str
    problem: str


class PruneCheckpoints(Command, frozen=True, kw_only=True):
    """A person gives up all committed checkpoints but the newest `keep`."""

    keep: int


class RequestConsolidation(Command, frozen=True, kw_only=True):
    """Make a version of what was learned, when nothing trains; `night`: the date of the schedule that asks."""

    description: str
    after_current: bool = False
    night: str | None = None


class CancelConsolidation(Command, frozen=True, kw_only=True):
    """It is not wanted any more."""


class StartConsolidation(Command, frozen=True, kw_only=True):
    """Give what was learned to a worker to merge."""


class MoveHead(Command, frozen=True, kw_only=True):
    """Go on from a version, from a checkpoint that was left behind, from what a backup holds, or (all None) from the
    origin."""

    version: str | None = None
    checkpoint: str | None = None
    backup: str | None = None


class RollBack(Command, frozen=True, kw_only=True):
    """Go back behind what was learned last."""


class RecordRestored(Command, frozen=True, kw_only=True):
    """The head was brought back from its backup."""


class DeleteVersion(Command, frozen=True, kw_only=True):
    """A person gives up a version, or a checkpoint that was left behind."""

    version: str


class RecordBackup(Command, frozen=True, kw_only=True):
    """A backup was made and read back."""

    backup: str
    reason: str
    held: DetachedCheckpoint
    size_bytes: int
    manifest_sha256: str


class DeleteBackups(Command, frozen=True, kw_only=True):
    """A person gives up backups of more than so many days."""

    older_than_days: float


class Retain(Command, frozen=True, kw_only=True):
    """Give up what the config does not want to keep."""

    retention: RetentionSettings


class RecordSwept(Command, frozen=True, kw_only=True):
    """Debris was removed."""

    path: str
    size_bytes: int


class RecordRejectedMoved(Command, frozen=True, kw_only=True):
    """A rejected file now stands in `rejected/`."""

    job: str
    path: str


class MeasureDisk(Command, frozen=True, kw_only=True):
    """So much is free on the disk; act by the limits of the config."""

    free_bytes: int
    disk: DiskSettings
    retention: RetentionSettings


class MeasureMemory(Command, frozen=True, kw_only=True):
    """So much memory is there, to anybody, and with the worker; act by the limits of the config."""

    total_bytes: int
    available_bytes: int
    worker_bytes: int
    groups: tuple[tuple[int, int], ...] = ()
    """The same of the control groups that have a limit: that limit, and what is available below it."""
    limits: MemorySettings


class RecordConfig(Command, frozen=True, kw_only=True):
    """keepstep.toml was read anew: what it changes at once, or why it cannot be used and what to do."""

    changes: tuple[Change, ...] = ()
    problem: str | None = None
    advice: str = ""


class ReportDiskFull(Command, frozen=True, kw_only=True):
    """The disk is full. Whatever runs ends, and nothing is begun until there is room."""

    message: str
    wanted_bytes: int = 0
    """That must be free before work goes on; the machine may want more."""


class ReportDiskFree(Command, frozen=True, kw_only=True):
    """So much is free on the disk; work goes on if it is enough."""

    free_bytes: int


class RecordOrphan(Command, frozen=True, kw_only=True):
    """A leftover of an earlier daemon was ended; the fields are those of `orphan_ended`."""

    pid: int
    started_at: float
    command: str


class RecordWatchCost(Command, frozen=True, kw_only=True):
    """What the daemon itself took; the fields are those of `watch_cost_measured`."""

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
    | HoldWork
    | QuarantineCheckpoint
    | PruneCheckpoints
    | RequestConsolidation
    | CancelConsolidation
    | StartConsolidation
    | MoveHead
    | RollBack
    | RecordRestored
    | DeleteVersion
    | RecordBackup
    | DeleteBackups
    | Retain
    | RecordSwept
    | RecordRejectedMoved
    | MeasureDisk
    | MeasureMemory
    | RecordConfig
    | ReportDiskFull
    | ReportDiskFree
    | RecordOrphan
    | RecordWatchCost
    | AnyFact
)
