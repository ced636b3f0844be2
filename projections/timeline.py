"""Timelines: what the journal says of one job, failure, step, checkpoint or version, in order.

A timeline is a fold over the whole journal, made on request. Each subclass knows which records concern its subject. The
base class turns them into entries: `describe` gives the text, and consecutive steps and commits become one entry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from msgspec import Struct

from core.failures import EXPLANATIONS
from core.state import State
from events import kinds
from events.codec import Record
from events.event import Event
from events.kinds import AnyEvent, EvaluationDone, SamplesFailed, SamplesGenerated, SamplesPutOff
from projections.failures import Failures
from projections.lineage import Lineage

Describe = Callable[[AnyEvent, State], str | None]
"""Describes an event; `State`: after it. None: the event has no text."""


class TimelineEntry(Struct, frozen=True):
    """One line of a timeline."""

    seq: int
    at: str
    text: str


@dataclass
class StepRange:
    """Consecutive steps and commits, which share an entry."""

    first: kinds.StepReached | None = None
    last: kinds.StepReached | None = None
    commit: kinds.CheckpointCommitted | None = None
    commits: int = 0

    def text(self) -> str:
        """The text of the entry."""
        parts = []
        if self.first is not None and self.last is not None:
            loss = f"loss {_number(self.first.loss)}"
            if self.first is self.last:
                parts.append(f"step {self.last.step} (global step {self.last.global_step}), {loss}")
            else:
                steps = f"steps {self.first.step} to {self.last.step}"
                numbers = f"global steps {self.first.global_step} to {self.last.global_step}"
                parts.append(f"{steps} ({numbers}), {loss} → {_number(self.last.loss)}")
        if self.commit is not None:
            times = "committed" if self.commits == 1 else f"committed {self.commits} times, the last time"
            parts.append(f"{times} as {self.commit.checkpoint}")
        return "; ".join(parts)


@dataclass
class Timeline(ABC):
    """The base class: folds every record and keeps the entries of its subject."""

    describe: Describe
    entries: list[TimelineEntry] = field(default_factory=list)
    lineage: Lineage = field(default_factory=Lineage)
    failures: Failures = field(default_factory=Failures)
    found: bool = False
    """True if the journal has the subject."""
    _steps: StepRange = field(default_factory=StepRange)
    _names: dict[str, str] = field(default_factory=dict)

    def observe(self, before: State, after: State, record: Record) -> None:
        """Fold one record; `before` and `after` are the states around it."""
        event = record.event
        if isinstance(event, kinds.FileEnqueued):
            self._names[event.job] = event.name
        self.lineage.observe(before, event)
        self.failures.observe(before, record)
        if self.concerns(before, after, record):
            self.found = True
            self.add_event(before, after, record)

    @abstractmethod
    def concerns(self, before: State, after: State, record: Record) -> bool:
        """True if the record concerns the subject."""

    def add_event(self, _before: State, after: State, record: Record) -> None:
        """Add an entry for a record, if it has a text."""
        event = record.event
        if isinstance(event, kinds.StepReached | kinds.CheckpointCommitted):
            self._add_step(record, event)
            return
        text = self.describe(event, after)
        if text is not None:
            self._steps = StepRange()
            text = self._with_name(text, event) + _meaning(event) + _retry_time(record)
            self.entries.append(TimelineEntry(record.seq, record.at, text))

    def _with_name(self, text: str, event: Event) -> str:
        """`text` with the name of a job as its subject. Elsewhere an id stays: in a command, in "(job …)"."""
        job = getattr(event, "job", None)
        if job not in self._names or not text.startswith(job[:12]):
            return text
        return self._names[job] + text.removeprefix(job[:12])

    def _add_step(self, record: Record, event: kinds.StepReached | kinds.CheckpointCommitted) -> None:
        if self._steps.last is not None and self._steps.last.attempt != event.attempt:
            self._steps = StepRange()
        steps = self._steps
        if steps.first is not None or steps.commit is not None:
            self.entries.pop()
        if isinstance(event, kinds.StepReached):
            steps.first, steps.last = steps.first or event, event
        else:
            steps.commit, steps.commits = event, steps.commits + 1
        self.entries.append(TimelineEntry(record.seq, record.at, steps.text()))


@dataclass
class JobTimeline(Timeline):
    """The timeline of a job. `wanted`: the name of its file, or the first digits of its SHA-256."""

    wanted: str = ""
    jobs: dict[str, str] = field(default_factory=dict)
    """Names of the matching jobs by id. More than one means that `wanted` is ambiguous."""

    def concerns(self, before: State, after: State, record: Record) -> bool:
        event = record.event
        if isinstance(event, kinds.FileEnqueued | kinds.FileDuplicate) and self._matches(event.job, event.name):
            self.jobs.setdefault(event.job, event.name)
        if (job := getattr(event, "job", None)) is not None:
            return job in self.jobs and not isinstance(event, kinds.BackupCreated)
        if isinstance(event, kinds.VersionPublished):
            return any(part.job in self.jobs for part in self.lineage.published[event.version].parts)
        if isinstance(event, kinds.HeadMoved):
            return any(part.job in self.jobs for part in (*self.lineage.parts, *self.lineage.left[-1].parts))
        return _stops_or_resumes(before, after, event, self.jobs)

    def _matches(self, job: str, name: str) -> bool:
        return name == self.wanted or (len(self.wanted) >= 4 and job.startswith(self.wanted))


def _stops_or_resumes(before: State, after: State, event: AnyEvent, jobs: dict[str, str]) -> bool:
    """True if the event stops or resumes all work, and the current job is one of these."""
    stops = kinds.DaemonHeld | kinds.Resumed | kinds.PauseRequested | kinds.StorageExhausted | kinds.StorageFreed
    current = after.training.current or before.training.current
    return isinstance(event, stops) and current is not None and current.id in jobs


@dataclass
class FailureTimeline(Timeline):
    """The timeline of the failure in record `seq`: what led to it, and what followed until work resumed."""

    seq: int = 0
    _job: str | None = None
    _over: bool = False

    def concerns(self, before: State, after: State, record: Record) -> bool:
        event = record.event
        job = getattr(event, "job", None)
        if record.seq < self.seq:
            if isinstance(event, kinds.AttemptStarted | kinds.ConsolidationStarted | kinds.VersionEvaluationStarted):
                self.entries.clear()  # the timeline begins with the last start before the failure
            begins = kinds.AttemptStarted | kinds.TrainingStarted | kinds.StepReached | kinds.CheckpointCommitted
            recoveries = kinds.MicrobatchSplit | kinds.BatchSkipped
            others = kinds.ConsolidationStarted | kinds.VersionEvaluationStarted
            return isinstance(event, begins | recoveries | others)
        if record.seq == self.seq:
            self._job = job or (before.training.current.id if before.training.current is not None else None)
            self._over = not self.failures.found or self.failures.found[-1].seq != self.seq
            return not self._over
        if self._over or isinstance(event, kinds.StepReached):
            return False
        ends = kinds.CheckpointCommitted | kinds.JobTrained | kinds.JobSkipped | kinds.JobRejected
        self._over = isinstance(event, ends) and job == self._job
        self._over = self._over or isinstance(event, kinds.VersionPublished | kinds.VersionEvaluated)
        mine = job == self._job if job is not None else getattr(event, "attempt", None) is not None
        return (
            mine or _stops_or_resumes(before, after, event, {self._job or "": ""}) or isinstance(event, kinds.Resumed)
        )

    def observe(self, before: State, after: State, record: Record) -> None:
        """As in the base class, but events before the failure do not prove that it exists."""
        super().observe(before, after, record)
        if record.seq < self.seq:
            self.found = False


@dataclass
class StepTimeline(Timeline):
    """The timeline of a global step: each time that it was reached, the checkpoints and versions that hold it."""

    step: int = 0

    def concerns(self, before: State, after: State, record: Record) -> bool:
        event = record.event
        at_a_step = (
            kinds.StepReached
            | kinds.DivergenceDetected
            | kinds.MicrobatchSplit
            | kinds.BatchSkipped
            | EvaluationDone
            | kinds.JobEvaluated
            | SamplesGenerated
            | SamplesFailed
            | SamplesPutOff
        )
        if isinstance(event, at_a_step):
            return event.global_step == self.step
        if isinstance(event, kinds.CheckpointCommitted):
            return before.head.global_step < self.step <= event.global_step
        if isinstance(event, kinds.VersionPublished):
            branch = self.lineage.published[event.version]
            return bool(branch.parts) and branch.parts[-1].global_to >= self.step > before.head.base_step
        moves = kinds.CheckpointQuarantined | kinds.HeadMoved
        return isinstance(event, moves) and (before.head.global_step >= self.step) != (
            after.head.global_step >= self.step
        )


@dataclass
class CheckpointTimeline(Timeline):
    """The timeline of a checkpoint: its commit, its backups, the first version that holds it, and its end."""

    checkpoint: str = ""
    _in_a_version: bool = False

    def concerns(self, before: State, _after: State, record: Record) -> bool:
        event = record.event
        if isinstance(event, kinds.VersionPublished) and not self._in_a_version:
            commits = self.lineage.published[event.version].commits
            self._in_a_version = any(name == self.checkpoint for _, name in commits)
            return self._in_a_version
        head = before.head.checkpoint.id if before.head.checkpoint is not None else None
        if isinstance(event, kinds.HeadMoved) and self.checkpoint == head:
            return True
        return getattr(event, "checkpoint", None) == self.checkpoint and not isinstance(event, kinds.TrainingStarted)


@dataclass
class VersionTimeline(Timeline):
    """The timeline of a version: from its request to its deletion, and when it was the base of the head."""

    version: str = ""
    _request: tuple[State, State, Record] | None = None
    _attempts: set[int] = field(default_factory=set)

    def concerns(self, before: State, after: State, record: Record) -> bool:
        event = record.event
        if isinstance(event, kinds.ConsolidationRequested):
            self._request = (before, after, record)
            return False
        starts = kinds.ConsolidationStarted | kinds.VersionEvaluationStarted
        if isinstance(event, starts) and event.version == self.version:
            self._attempts.add(event.attempt)
            if self._request is not None:
                self.add_event(*self._request)
                self._request = None
        if isinstance(event, kinds.HeadMoved) and before.head.base == self.version:
            return True
        mine = getattr(event, "version", None) == self.version
        of_its_attempts = getattr(event, "attempt", None) in self._attempts and not hasattr(event, "job")
        return mine or of_its_attempts


def _meaning(event: AnyEvent) -> str:
    """The meaning of a failure, to append to its text."""
    match event:
        case kinds.AttemptFailed(failure=failure):
            return f" ({EXPLANATIONS[failure].meaning})"
        case kinds.ConsolidationAborted(failure=str(failure)) | kinds.VersionEvaluationFailed(failure=str(failure)):
            return f" ({EXPLANATIONS[failure].meaning})"
        case kinds.DivergenceDetected():
            return f" ({EXPLANATIONS['diverged'].meaning})"
        case _:
            return ""


def _retry_time(record: Record) -> str:
    """When the work is retried, to append to the text of a failure."""
    retry_at: float | None = getattr(record.event, "retry_at", None)
    if retry_at is None:
        return ""
    wait_s = retry_at - datetime.fromisoformat(record.at).timestamp()
    return f"; retried after {max(0.0, wait_s):.0f} s"


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float | int) else str(value)
