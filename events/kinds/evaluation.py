"""Evaluations on rows that are never trained on, of jobs and of versions, and what follows for a version."""

from __future__ import annotations

from typing import Literal

from events.evaluation import Comparison, Divergence, EvaluationId, Promoter, ResultsFile, Scores, TaskScore
from events.event import Event
from events.settings import VersionSettings
from events.values import Concern, Failure, JobId, Number, VersionId


class EvaluationDone(Event, frozen=True, kw_only=True, tag="evaluation_done"):
    """The loss on the validation set was computed. An evaluation changes no weights."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: int
    """Steps of the job before the evaluation; 0: none."""
    rows: int
    tokens: int
    """Predicted tokens that the loss is the mean of."""
    loss: Number
    """Cross-entropy per token, nats."""
    training_loss: Number | None
    """The mean loss of the steps since the last evaluation; None: there were no steps."""
    seconds: float
    concern: Concern | None


class EvaluationAbandoned(Event, frozen=True, kw_only=True, tag="evaluation_abandoned"):
    """The worker hung or failed in an evaluation: this job continues without evaluations. `attempt_failed` follows."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    failure: Failure
    message: str


class JobEvaluated(Event, frozen=True, kw_only=True, tag="job_evaluated"):
    """Both suites were evaluated at the end of a job. It changes no weights and decides nothing."""

    v: Literal[1] = 1
    job: JobId
    attempt: int
    global_step: int
    step: int
    results: ResultsFile | None
    """None: nothing was measured; `problem` says why."""
    scores: Scores
    divergence: Divergence | None
    """From the base of the head. None: not measured."""
    suites_sha256: str
    seconds: float
    problem: str
    """What could not be measured, and why; "": nothing."""


class VersionEvaluationRequested(Event, frozen=True, kw_only=True, tag="version_evaluation_requested"):
    """A person wants a version evaluated (`keepstep versions evaluate`)."""

    v: Literal[1] = 1
    version: VersionId


class VersionEvaluationStarted(Event, frozen=True, kw_only=True, tag="version_evaluation_started"):
    """A worker was asked to evaluate a version and its parent. Nothing trains until this attempt ends."""

    v: Literal[1] = 1
    attempt: int
    version: VersionId
    parent: VersionId | None
    """The version that it is compared with; None: the origin."""
    evaluation: EvaluationId
    settings: VersionSettings
    """The limits that decide about the version."""


class VersionEvaluated(Event, frozen=True, kw_only=True, tag="version_evaluated"):
    """The version was evaluated and compared with its parent. `version_promoted` or `version_held` may follow."""

    v: Literal[1] = 1
    attempt: int
    version: VersionId
    results: ResultsFile
    scores: Scores
    comparison: Comparison | None
    """None: its parent no longer exists."""
    divergence: Divergence | None
    """From the parent. None: not measured."""
    suites_sha256: str
    seconds: float
    problem: str
    """What could not be measured, and why; "": nothing."""
    worse: str
    """Why the version is worse than its parent by the limits, a clause; "": it is not, or the gate is off."""


class VersionEvaluationFailed(Event, frozen=True, kw_only=True, tag="version_evaluation_failed"):
    """The attempt ended without results."""

    v: Literal[1] = 1
    attempt: int
    version: VersionId
    failure: Failure | None
    """As in `attempt_failed`; None: nothing failed, it was asked to yield or its daemon was gone."""
    message: str
    retry: bool
    """False: it is not tried again."""
    retry_at: float | None
    """No retry before this time. Unix time, seconds."""


class TasksEvaluated(Event, frozen=True, kw_only=True, tag="tasks_evaluated"):
    """A person ran tasks of lm-evaluation-harness on a version. They decide nothing."""

    v: Literal[1] = 1
    version: VersionId
    scores: tuple[TaskScore, ...]
    """At most TASK_SCORES_MAX."""
    limit: int | None
    """Samples of each task; None: all."""
    seconds: float
    device: str
    harness: str
    """The version of lm-evaluation-harness."""


class VersionHeld(Event, frozen=True, kw_only=True, tag="version_held"):
    """The head does not move to the version. A person decides: `keepstep versions promote` or `discard`."""

    v: Literal[1] = 1
    version: VersionId
    reason: str


class VersionPromoted(Event, frozen=True, kw_only=True, tag="version_promoted"):
    """The head moves to a version that was published without that: the next step starts from it."""

    v: Literal[1] = 1
    version: VersionId
    by: Promoter
