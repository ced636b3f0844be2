"""Messages between the daemon and its worker: orders one way, reports the other.

JSON objects, one a line, over a Unix socket. The worker decides nothing: it gets the number of the attempt that it
works on, and puts that number into every report. So the daemon can drop a late report of an earlier attempt.

    daemon                                  worker
                                    ◀──     hello
    prepare (attempt, data, settings) ──▶
                                    ◀──     prepared (plan)   or  rejected (problem, line)
    train (from checkpoint, step)     ──▶
                                    ◀──     loaded            or  checkpoint_bad
                                    ◀──     evaluated               (where there is a validation set)
                                    ◀──     sampled, samples_put_off, samples_failed; job_evaluated (at the end)
                                    ◀──     self_corrected, self_correction_put_off, self_correction_failed
    sample (plan)                     ──▶   (at the next step boundary, or when [samples] changes)
    self_correct (plan)               ──▶   (rounds of self-correction begin, change or end)
                                    ◀──     step, step, …
                                    ◀──     out_of_memory           (the step changed nothing)
    run_again (course)                ──▶   (the same step, in smaller parts)
                                    ◀──     batch_suspect           (the step changed nothing, and is skipped)
                                    ◀──     checkpoint_written
    committed                         ──▶   (only now may the next checkpoint be written)
    consolidate (head → version)      ──▶
                                    ◀──     backed_up, merged, verified, version_written
    evaluate_version (version)        ──▶
                                    ◀──     version_evaluated
    yield                             ──▶   (at the next step boundary: checkpoint, then; of a consolidation: at once)
                                    ◀──     yielded
    shutdown                          ──▶
"""

from __future__ import annotations

from typing import Literal

from msgspec import field

from events.course import Course
from events.evaluation import Comparison, Divergence, EvaluationId, ResultsFile, Scores, Suites
from events.messages.answers import Sample as Sample
from events.messages.answers import Sampled as Sampled
from events.messages.answers import SamplesFailed as SamplesFailed
from events.messages.answers import SamplesPutOff as SamplesPutOff
from events.messages.answers import SelfCorrect as SelfCorrect
from events.messages.answers import SelfCorrected as SelfCorrected
from events.messages.answers import SelfCorrectionFailed as SelfCorrectionFailed
from events.messages.answers import SelfCorrectionPutOff as SelfCorrectionPutOff
from events.messages.base import Fact as Fact
from events.messages.base import Order as Order
from events.samples import SampleBudget, SamplePlan
from events.self_correction import CorrectionPlan
from events.settings import JobSettings, ModelSettings, Plan
from events.trained import Trained, TrainedFile
from events.values import BackupId, CheckpointId, CheckpointReason, Failure, JobId, Number, Suspicion, VersionId

Phase = Literal["load", "prepare", "step", "evaluate", "sample", "self_correct", "checkpoint", "consolidate"]
WorkerPhase = Literal["start"] | Phase
"""With the time before the first sign of life."""


class Hello(Fact, frozen=True, kw_only=True, tag="hello"):
    """The worker is up; `attempt` is 0, because it has none yet."""

    pid: int


class Heartbeat(Fact, frozen=True, kw_only=True, tag="heartbeat"):
    """Proof of progress: the code that does the work sends it, at most once a second. Never journaled."""

    phase: Phase
    done: int
    total: int


class Prepared(Fact, frozen=True, kw_only=True, tag="prepared"):
    """Every row is tokenized and planned."""

    plan: Plan


class Rejected(Fact, frozen=True, kw_only=True, tag="rejected"):
    """The file cannot be trained on; fields as in `job_rejected`."""

    problem: str
    line: int | None
    message: str


class Loaded(Fact, frozen=True, kw_only=True, tag="loaded"):
    """Model, weights and optimizer are loaded."""

    environment: dict[str, str]
    trained: Trained | None = None
    """The trained part of the model; None: the worker does not say."""


class Step(Fact, frozen=True, kw_only=True, tag="step"):
    """One optimizer step is done; fields as in `step_reached`."""

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


class JobEvaluated(Fact, frozen=True, kw_only=True, tag="job_evaluated"):
    """Both suites were evaluated at the end of the job; fields as in the event."""

    global_step: int
    step: int
    results: ResultsFile | None
    scores: Scores
    divergence: Divergence | None
    suites_sha256: str
    seconds: float
    problem: str


class OutOfMemory(Fact, frozen=True, kw_only=True, tag="out_of_memory"):
    """A step did not fit into memory."""

    global_step: int
    step: int
    sequences: int
    """The most sequences that were computed together; if it was one, nothing can be split."""
    during: Literal["gradients", "update"]
    """"gradients": nothing has changed, and the worker waits for `run_again`. "update": the update may be half applied,
    and the worker ends."""
    message: str


class BatchSuspect(Fact, frozen=True, kw_only=True, tag="batch_suspect"):
    """A step was stopped before it changed anything; fields as in `batch_skipped`."""

    global_step: int
    step: int
    loss: Number
    grad_norm: Number
    suspicion: Suspicion
    message: str
    lines: tuple[int, ...]
    earlier: dict[JobId, tuple[int, ...]]


class CheckpointWritten(Fact, frozen=True, kw_only=True, tag="checkpoint_written"):
    """A complete checkpoint has its final name; it counts once the daemon has journaled it."""

    checkpoint: CheckpointId
    global_step: int
    step: int
    parent: CheckpointId | None
    size_bytes: int
    manifest_sha256: str
    reason: CheckpointReason


class CheckpointBad(Fact, frozen=True, kw_only=True, tag="checkpoint_bad"):
    """The checkpoint to continue from is not what its manifest says."""

    checkpoint: CheckpointId
    problem: str


class BackedUp(Fact, frozen=True, kw_only=True, tag="backed_up"):
    """A copy of the head is in `backups/`, and was verified."""

    size_bytes: int
    manifest_sha256: str


class Merged(Fact, frozen=True, kw_only=True, tag="merged"):
    """The weights of the version are written; fields as in `consolidation_merged`."""

    applied: float | None
    in_place: float | None


class Verified(Fact, frozen=True, kw_only=True, tag="verified"):
    """The merged weights give the logits of what they were merged from; fields as in `consolidation_verified`."""

    difference: float
    tolerance: float


class VersionWritten(Fact, frozen=True, kw_only=True, tag="version_written"):
    """A complete version has its final name; it counts once the daemon has journaled it."""

    version: VersionId
    size_bytes: int
    manifest_sha256: str


class VersionEvaluated(Fact, frozen=True, kw_only=True, tag="version_evaluated"):
    """A version and its parent were evaluated; fields as in the event."""

    version: VersionId
    results: ResultsFile
    scores: Scores
    comparison: Comparison | None
    divergence: Divergence | None
    suites_sha256: str
    seconds: float
    problem: str


class Yielded(Fact, frozen=True, kw_only=True, tag="yielded"):
    """The worker stopped at a step boundary; every step that it reported is committed."""


class Failed(Fact, frozen=True, kw_only=True, tag="failed"):
    """The attempt failed. `message` is for a person, `trace` for the log."""

    failure: Failure
    message: str
    trace: str
    phase: Phase | None = None
    """The phase, on which no training depends, that it failed in; None: another one."""


AnyFact = (
    Hello
    | Heartbeat
    | Prepared
    | Rejected
    | Loaded
    | Step
    | Evaluated
    | JobEvaluated
    | Sampled
    | SamplesPutOff
    | SamplesFailed
    | SelfCorrected
    | SelfCorrectionPutOff
    | SelfCorrectionFailed
    | OutOfMemory
    | BatchSuspect
    | CheckpointWritten
    | CheckpointBad
    | BackedUp
    | Merged
    | Verified
    | VersionWritten
    | VersionEvaluated
    | Yielded
    | Failed
)


class Prepare(Order, frozen=True, kw_only=True, tag="prepare"):
    """Read, check and tokenize the data file of a job, and plan its batches."""

    job: JobId
    name: str = ""
    """The name of the file in the inbox."""
    settings: JobSettings


class Consolidate(Order, frozen=True, kw_only=True, tag="consolidate"):
    """Back up the head, and merge the origin and everything trained since into a version."""

    version: VersionId
    parent: VersionId | None
    """The version that the head was trained from; None: the origin."""
    checkpoint: CheckpointId
    backup: BackupId
    description: str
    files: tuple[TrainedFile, ...] = ()
    """Every file that it was trained on, the oldest first; the daemon adds them from the journal."""
    space_factor: float = 1.0
    """Free disk space that it needs to start, as a multiple of the model's size; the daemon adds it from the config."""
    model: ModelSettings | None = None
    """The present place of the origin, if it was moved since the checkpoint; the daemon adds it from the config."""


class EvaluateVersion(Order, frozen=True, kw_only=True, tag="evaluate_version"):
    """Evaluate a version, and its parent where its results are missing."""

    version: VersionId
    parent: VersionId | None
    """None: the origin."""
    has_parent: bool = True
    """False: it was deleted, so there is nothing to compare with."""
    evaluation: EvaluationId
    parent_results: ResultsFile | None = None
    """None: there are none."""
    suites: Suites = Suites()
    """The daemon adds them from the journal and the config."""
    model: ModelSettings | None = None
    """The origin; the daemon adds it from the config."""


class Train(Order, frozen=True, kw_only=True, tag="train"):
    """Load the base (a version; None: the origin) and the checkpoint (None: nothing was trained from the base yet), and
    train on from `step` (0: the beginning).

    `until` is the step of this job to end at: the plan's last one, or the end of a replay range. The checkpoint's own
    cursor may belong to another job: `step` says where to continue in this one.
    """

    global_step: int
    step: int
    until: int
    base: VersionId | None = None
    checkpoint: CheckpointId | None
    carry_optimizer: bool
    course: Course = Course()
    """Departures from the plan."""
    evaluates: bool = False
    """Evaluate the job while it trains."""
    evaluated_to: int = -1
    """The last step of the job that was evaluated in an earlier attempt; it and earlier ones are not evaluated
    again."""
    environment: dict[str, str] = field(default_factory=dict)
    """The environment when training of this job last started; empty: it never did."""
    samples: SampleBudget | None = None
    """None: no samples in this attempt."""
    sample_plan: SamplePlan | None = None
    """The daemon adds it from the config."""
    correction: CorrectionPlan | None = None
    """None: no self-correction in this attempt; the daemon adds the settings from the config."""
    suites: Suites | None = None
    """To evaluate after the last step; the daemon adds them from the journal. None: nothing is evaluated then."""


class RunAgain(Order, frozen=True, kw_only=True, tag="run_again"):
    """Run the step that did not fit into memory again, and all that follow, on this course."""

    course: Course


class Yield(Order, frozen=True, kw_only=True, tag="yield"):
    """Stop at the next step boundary, with everything committed."""


class Committed(Order, frozen=True, kw_only=True, tag="committed"):
    """The checkpoint is journaled: it is the parent of the next one."""

    checkpoint: CheckpointId


class Shutdown(Order, frozen=True, kw_only=True, tag="shutdown"):
    """Exit."""


AnyOrder = (
    Prepare | Train | RunAgain | Sample | SelfCorrect | Consolidate | EvaluateVersion | Yield | Committed | Shutdown
)
