"""What the daemon and its worker say to each other: orders one way, facts the other.

JSON objects, one a line, over a Unix socket. The worker decides nothing: it is told which attempt it works on, and
every fact carries that number, so that a late word of an earlier attempt is known for what it is and dropped.

    daemon                                  worker
                                    ◀──     hello
    prepare (attempt, data, settings) ──▶
                                    ◀──     prepared (plan)   or  rejected (problem, line)
    train (from checkpoint, step)     ──▶
                                    ◀──     loaded            or  checkpoint_bad
                                    ◀──     evaluated               (where there is a validation set)
                                    ◀──     step, step, …
                                    ◀──     out_of_memory           (nothing of the step is done)
    run_again (course)                ──▶   (the same step, by this course)
                                    ◀──     batch_suspect           (nothing of the step is done, and nothing will be)
                                    ◀──     checkpoint_written
    committed                         ──▶   (only now may the next checkpoint be written)
    consolidate (head → version)      ──▶
                                    ◀──     backed_up, merged, verified, version_written
    yield                             ──▶   (at the next step boundary: checkpoint, then; of a consolidation: at once)
                                    ◀──     yielded
    shutdown                          ──▶
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from events.course import Course
from events.guard import Suspicion
from events.kinds import CheckpointReason
from events.settings import JobSettings, Plan
from events.trained import Trained
from events.values import BackupId, CheckpointId, Failure, JobId, Number, VersionId

Phase = Literal["load", "prepare", "step", "evaluate", "checkpoint", "consolidate"]


class TrainedFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data file, or steps of one, that went into weights."""

    name: str
    sha256: JobId
    rows: int
    epochs: int
    steps: tuple[int, int]
    """Global steps: the first and the last."""


class Fact(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="fact"):
    """Something the worker did or found, during `attempt`."""

    attempt: int


class Hello(Fact, frozen=True, kw_only=True, tag="hello"):
    """The worker is up; `attempt` is 0, for it has none yet."""

    pid: int


class Heartbeat(Fact, frozen=True, kw_only=True, tag="heartbeat"):
    """Proof of progress, not of life: sent by the code that does the work, at most once a second. Never journaled."""

    phase: Phase
    done: int
    total: int


class Prepared(Fact, frozen=True, kw_only=True, tag="prepared"):
    """Every row is tokenised and planned."""

    plan: Plan


class Rejected(Fact, frozen=True, kw_only=True, tag="rejected"):
    """The file cannot be learned from; fields as in `job_rejected`."""

    problem: str
    line: int | None
    message: str


class Loaded(Fact, frozen=True, kw_only=True, tag="loaded"):
    """Weights and optimizer stand where the order said."""

    environment: dict[str, str]
    trained: Trained | None = None
    """What is trained of the model; None: the worker does not say."""


class Step(Fact, frozen=True, kw_only=True, tag="step"):
    """One optimizer step was done; fields as in `step_reached`."""

    global_step: int
    step: int
    epoch: int
    loss: Number
    grad_norm: Number
    learning_rate: float
    tokens: int
    seconds: float


class Evaluated(Fact, frozen=True, kw_only=True, tag="evaluated"):
    """The loss on the validation set; fields as in `evaluation_done`."""

    global_step: int
    step: int
    rows: int
    tokens: int
    loss: Number
    training_loss: Number | None
    seconds: float


class OutOfMemory(Fact, frozen=True, kw_only=True, tag="out_of_memory"):
    """A step did not fit into memory."""

    global_step: int
    step: int
    sequences: int
    """The most that were computed together: when it was one, there is nothing to cut."""
    during: Literal["gradients", "update"]
    """"gradients": nothing is changed, and the worker waits for `run_again`. "update": the weights may be half-changed,
    and the worker ends."""
    message: str


class BatchSuspect(Fact, frozen=True, kw_only=True, tag="batch_suspect"):
    """A step was stopped before it changed anything; fields as in `batch_set_aside`."""

    global_step: int
    step: int
    loss: Number
    grad_norm: Number
    suspicion: Suspicion
    message: str
    lines: tuple[int, ...]
    earlier: dict[JobId, tuple[int, ...]]


class CheckpointWritten(Fact, frozen=True, kw_only=True, tag="checkpoint_written"):
    """A complete directory stands under its final name; it counts once the daemon has journaled it."""

    checkpoint: CheckpointId
    global_step: int
    step: int
    parent: CheckpointId | None
    size_bytes: int
    manifest_sha256: str
    reason: CheckpointReason


class CheckpointBad(Fact, frozen=True, kw_only=True, tag="checkpoint_bad"):
    """The checkpoint that training should go on from is not what its manifest says."""

    checkpoint: CheckpointId
    problem: str


class BackedUp(Fact, frozen=True, kw_only=True, tag="backed_up"):
    """A copy of the head stands in `backups/`, and was read back."""

    size_bytes: int
    manifest_sha256: str


class Merged(Fact, frozen=True, kw_only=True, tag="merged"):
    """The weights of the version are written; fields as in `consolidation_merged`."""

    applied: float | None
    in_place: float | None


class Verified(Fact, frozen=True, kw_only=True, tag="verified"):
    """They answer as what they were made of; fields as in `consolidation_verified`."""

    difference: float
    tolerance: float


class VersionWritten(Fact, frozen=True, kw_only=True, tag="version_written"):
    """A complete directory stands under the version's name; it counts once the daemon has journaled it."""

    version: VersionId
    size_bytes: int
    manifest_sha256: str


class Yielded(Fact, frozen=True, kw_only=True, tag="yielded"):
    """The worker stands at a step boundary; every step it reported is committed."""


class Failed(Fact, frozen=True, kw_only=True, tag="failed"):
    """The attempt ended in an error. `message` is for a person; `trace` is for the log."""

    failure: Failure
    message: str
    trace: str
    evaluating: bool = False
    """It failed in an evaluation, on which nothing depends."""


AnyFact = (
    Hello
    | Heartbeat
    | Prepared
    | Rejected
    | Loaded
    | Step
    | Evaluated
    | OutOfMemory
    | BatchSuspect
    | CheckpointWritten
    | CheckpointBad
    | BackedUp
    | Merged
    | Verified
    | VersionWritten
    | Yielded
    | Failed
)


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="order"):
    """What the worker is to do next, for `attempt`."""

    attempt: int


class Prepare(Order, frozen=True, kw_only=True, tag="prepare"):
    """Read, check and tokenise the data file of a job, and plan its batches."""

    job: JobId
    name: str = ""
    """What a person called it."""
    settings: JobSettings


class Consolidate(Order, frozen=True, kw_only=True, tag="consolidate"):
    """Back the head up, and make a version of the origin and all that was learned since."""

    version: VersionId
    parent: VersionId | None
    """What the head was trained beside; None: the origin."""
    checkpoint: CheckpointId
    backup: BackupId
    description: str
    files: tuple[TrainedFile, ...]
    """Every file that went into it, the oldest first."""
    space_factor: float
    """How many times the size of the model must be free before it begins."""


class Train(Order, frozen=True, kw_only=True, tag="train"):
    """Load the base (a version; None: the origin) and what `checkpoint` holds (None: nothing was learned beside it
    yet), and train on from `step` (0: the beginning).

    `until` is the step of this job to end at: the plan's last one, or an earlier one where a stretch is run again.
    The checkpoint's own cursor may belong to another job: `step` says where in this one to go on.
    """

    global_step: int
    step: int
    until: int
    base: VersionId | None = None
    checkpoint: CheckpointId | None
    carry_optimizer: bool
    course: Course = Course()
    """What is done otherwise than planned."""
    evaluates: bool = False
    """Whether it is evaluated on the way."""
    evaluated_to: int = -1
    """Behind steps of the job up to this one that was done before, and is not done again."""
    environment: dict[str, str] = {}
    """What this job was trained in when training last started; empty: it never was."""


class RunAgain(Order, frozen=True, kw_only=True, tag="run_again"):
    """Run the step that did not fit into memory again, and all that follow, by this course."""

    course: Course


class Yield(Order, frozen=True, kw_only=True, tag="yield"):
    """Stop at the next step boundary, with everything committed."""


class Committed(Order, frozen=True, kw_only=True, tag="committed"):
    """The checkpoint is journaled: it is now the parent of what follows."""

    checkpoint: CheckpointId


class Shutdown(Order, frozen=True, kw_only=True, tag="shutdown"):
    """Leave."""


AnyOrder = Prepare | Train | RunAgain | Consolidate | Yield | Committed | Shutdown
