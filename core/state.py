"""The whole present, as frozen values.

What is finished leaves: trained, rejected and skipped jobs are counted, not kept, and checkpoints are those that
retention still holds. So a state is as large as what is in hand, however long the history.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from core.job import Job
from core.maps import Map
from core.queue import Queue
from core.versions import Backup, Checkpoint, Consolidation, ConsolidationRequest, DetachedCheckpoint, Meaning, Version
from events.settings import JobSettings
from events.values import Number

DaemonStatus = Literal["off", "off_paused", "idle", "working", "pausing", "paused", "stopping", "stopping_paused"]


class Daemon(Struct, frozen=True):
    """The process that owns the home; pid and start time together name it."""

    status: DaemonStatus = "off"
    pid: int = 0
    process_started_at: float = 0.0
    boot_id: str = ""
    host: str = ""


class Progress(Struct, frozen=True, gc=False):
    """How far the running attempt is; uncommitted."""

    global_step: int = 0
    step: int = 0


class ReplayRange(Struct, frozen=True, kw_only=True):
    """Committed steps of one job in one go: what must be run again if the checkpoints behind it are lost."""

    job: Job
    step_from: int
    step_to: int
    global_from: int
    global_to: int


class StepLog(Struct, frozen=True, gc=False):
    """Loss and gradient norm of each step that can be run again, to hold against what it gives then.

    Grown states share one list and each sees its own prefix of it, so that a step costs the same however long the
    trail is and an older state stays what it was.
    """

    base: int = 0
    """The global step before the first entry."""
    length: int = 0
    bits: list[tuple[Number, Number]] = []

    def at(self, global_step: int) -> tuple[Number, Number] | None:
        """What this step gave when it was first reached."""
        index = global_step - self.base - 1
        return self.bits[index] if 0 <= index < self.length else None

    def extended(self, bits: tuple[Number, Number]) -> StepLog:
        """The trail with the next step's bits."""
        shared, length = self.bits, self.length
        if len(shared) != length:
            if shared[length] == bits:  # an event is evolved more than once: to look ahead, then for good
                return StepLog(self.base, length + 1, shared)
            shared = shared[:length]
        shared.append(bits)
        return StepLog(self.base, length + 1, shared)

    def replaced(self, global_step: int, bits: tuple[Number, Number]) -> StepLog:
        """The trail with other bits at a step that it holds."""
        own = self.bits[: self.length]
        own[global_step - self.base - 1] = bits
        return StepLog(self.base, self.length, own)

    def until(self, last: int) -> StepLog:
        """The part up to and including global step `last`."""
        return self.between(self.base, last)

    def between(self, first: int, last: int) -> StepLog:
        """The part after global step `first`, up to and including `last`."""
        first = max(first, self.base)
        own = self.bits[first - self.base : max(0, min(self.length, last - self.base))]
        return StepLog(first, len(own), own)


class Counts(Struct, frozen=True):
    """What has left the state."""

    trained: int = 0
    rejected: int = 0
    skipped: int = 0
    duplicates: int = 0
    removed: int = 0


class Rejection(Struct, frozen=True):
    """A rejected file that still has to be moved to `rejected/`."""

    name: str
    problem: str
    line: int | None
    message: str


class Hold(Struct, frozen=True):
    """Why keepstep stopped by itself, and what a person can do."""

    reason: str
    advice: str


class DiskFull(Struct, frozen=True):
    """The disk is full: what was said when it was noticed, and how much must be free before work goes on."""

    message: str
    wanted_bytes: int


class MemoryShortage(Struct, frozen=True, kw_only=True):
    """Memory is short: what was measured when it was noticed."""

    total_bytes: int
    available_bytes: int
    worker_bytes: int
    """That must fit in again before work goes on."""
    since: float
    """Unix time, seconds."""
    grace_s: float
    """So long, what runs goes on."""


class ConfigError(Struct, frozen=True):
    """keepstep.toml was edited and cannot be used."""

    reason: str
    advice: str


class State(Struct, frozen=True, kw_only=True, gc=False):  # no cycles: values refer to older values only
    """Everything that the journal says about now."""

    home_id: str = ""
    daemon: Daemon = Daemon()
    first_started_at: float = 0.0
    """When the first daemon of this home was started. Unix time, seconds."""
    queue: Queue = Queue()
    begun: tuple[Job, ...] = ()
    """Jobs taken from the queue and not finished; the first is the current one. More than one only while stretches
    are run again."""
    attempt: int | None = None
    """The attempt that runs now."""
    attempts: int = 0
    """The number of the last attempt."""
    reached: Progress = Progress()
    trail: StepLog = StepLog()
    base: str | None = None
    """The version that is trained beside; None: the origin."""
    base_step: int = 0
    """The global step that the base stands at."""
    checkpoints: tuple[Checkpoint, ...] = ()
    """What was learned beside the base, on the present branch, oldest first."""
    replay_ranges: tuple[ReplayRange, ...] = ()
    """What was learned behind `past_from`."""
    meaning: Meaning | None = None
    environment: dict[str, str] = {}
    trained: tuple[str, ...] = ()
    """The jobs that were trained last, the oldest first: what is mixed into new ones comes from their files."""
    failed: Map[Job] = Map()
    rejections: Map[Rejection] = Map()
    quarantined: tuple[str, ...] = ()
    versions: tuple[Version, ...] = ()
    """Every one that stands in `versions/`, in the order in which they were made."""
    versions_made: int = 0
    left: tuple[DetachedCheckpoint, ...] = ()
    """What was learned and left behind when the head was moved; it can be gone back to."""
    backups: tuple[Backup, ...] = ()
    backups_made: int = 0
    consolidation_request: ConsolidationRequest | None = None
    """A consolidation that is wanted."""
    night: str = ""
    """The date of the last schedule that asked for one."""
    consolidation: Consolidation | None = None
    """The one that runs now, in the place of a job."""
    fetch: str | None = None
    """The backup that the head has to be brought back from before anything goes on."""
    hold: Hold | None = None
    repaired: bool = False
    """Records were given up, and no attempt was begun since: what nothing names may be what they named."""
    low: bool = False
    """Less is free on the disk than the config wants left alone."""
    short: MemoryShortage | None = None
    """Nothing is begun meanwhile, and what runs ends when it has lasted. It has no part in pausing and stopping."""
    config_error: ConfigError | None = None
    """Why keepstep.toml is not used as it is."""
    settings: JobSettings | None = None
    """Of the job that was begun last, for the first time."""
    full: DiskFull | None = None
    """No attempt is begun and no file is moved meanwhile. It has no part in pausing and stopping."""
    counts: Counts = Counts()

    @property
    def head(self) -> Checkpoint | None:
        """What the next step starts from, beside the base; None: the base itself."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def global_step(self) -> int:
        """The committed step."""
        return self.checkpoints[-1].global_step if self.checkpoints else self.base_step

    @property
    def past_from(self) -> int:
        """The global step behind which every step can be run again: the base's own, until the oldest checkpoint behind
        it is given up; then the oldest one's. Stretches and trail reach back to it."""
        return self.trail.base

    @property
    def current(self) -> Job | None:
        """The job in hand."""
        return self.begun[0] if self.begun else None

    def version(self, version_id: str | None) -> Version | None:
        """The version of this name, if it still stands."""
        return next((version for version in self.versions if version.id == version_id), None)

    def backup(self, backup_id: str | None) -> Backup | None:
        """The backup of this name, if it still stands."""
        return next((backup for backup in self.backups if backup.id == backup_id), None)

    def job(self, job_id: str) -> Job | None:
        """A job that is still in hand, waiting or failed."""
        for job in self.begun:
            if job.id == job_id:
                return job
        return self.queue.get(job_id) or self.failed.get(job_id)
