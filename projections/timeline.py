"""The story of one thing: what the journal says of a job, an accident, a step, a checkpoint or a version, in the order
in which it happened. A fold over the whole journal, made when somebody asks.

A **timeline** knows which records belong to its thing. What is the same for all of them is here: the words come from
`say`, steps and commits that follow one another become one line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from msgspec import Struct

from core.failures import EXPLANATIONS
from core.state import State
from events import guard, kinds, versions
from events.codec import Record
from events.evaluation import EvaluationDone
from events.event import Event
from events.kinds import AnyEvent
from projections.failures import Failures
from projections.lineage import Lineage

Describe = Callable[[AnyEvent, State], str | None]
"""A sentence about an event; `State`: after it. None: there is nothing to say."""


class TimelineEntry(Struct, frozen=True):
    """A line of a story."""

    seq: int
    at: str
    text: str


@dataclass
class Steps:
    """Steps and commits that follow one another."""

    first: kinds.StepReached | None = None
    last: kinds.StepReached | None = None
    commit: kinds.CheckpointCommitted | None = None
    commits: int = 0

    def text(self) -> str:
        """All of them in a line."""
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
class Timeline:
    """Base of all: sees every record, keeps the moments of its thing."""

    say: Describe
    entries: list[TimelineEntry] = field(default_factory=list)
    lineage: Lineage = field(default_factory=Lineage)
    failures: Failures = field(default_factory=Failures)
    found: bool = False
    """Whether the journal knows the thing."""
    _steps: Steps = field(default_factory=Steps)
    _names: dict[str, str] = field(default_factory=dict)

    def observe(self, before: State, after: State, record: Record) -> None:
        """Follow one record, between the states before and after it."""
        event = record.event
        if isinstance(event, kinds.FileEnqueued):
            self._names[event.job] = event.name
        self.lineage.observe(before, event)
        self.failures.observe(before, record)
        if self.concerns(before, after, record):
            self.found = True
            self.tell(before, after, record)

    def concerns(self, before: State, after: State, record: Record) -> bool:
        """Whether the record belongs to the story."""
        raise NotImplementedError

    def tell(self, _before: State, after: State, record: Record) -> None:
        """Keep what is to be said of the record."""
        event = record.event
        if isinstance(event, kinds.StepReached | kinds.CheckpointCommitted):
            self._add(record, event)
            return
        text = self.say(event, after)
        if text is not None:
            self.add(record, self.named(text, event) + _meaning(event) + _again(record))

    def add(self, record: Record, text: str) -> None:
        """One more moment."""
        self._steps = Steps()
        self.entries.append(TimelineEntry(record.seq, record.at, text))

    def named(self, text: str, event: Event) -> str:
        """`text` with a job's name in the place of its number."""
        job = getattr(event, "job", None)
        return text.replace(job[:12], self._names[job]) if job in self._names else text

    def _add(self, record: Record, event: kinds.StepReached | kinds.CheckpointCommitted) -> None:
        if self._steps.last is not None and self._steps.last.attempt != event.attempt:
            self._steps = Steps()
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
    """`wanted`: the file's name, or the first digits of its SHA-256."""

    wanted: str = ""
    jobs: dict[str, str] = field(default_factory=dict)
    """Those that fit: one, or the wish is not clear."""

    def concerns(self, before: State, after: State, record: Record) -> bool:
        event = record.event
        if isinstance(event, kinds.FileEnqueued | kinds.FileDuplicate) and self._fits(event.job, event.name):
            self.jobs.setdefault(event.job, event.name)
        if (job := getattr(event, "job", None)) is not None:
            return job in self.jobs and not isinstance(event, versions.BackupCreated)
        if isinstance(event, versions.VersionPublished):
            return any(part.job in self.jobs for part in self.lineage.published[event.version].parts)
        if isinstance(event, versions.HeadMoved):
            return any(part.job in self.jobs for part in (*self.lineage.parts, *self.lineage.left[-1].parts))
        return _around(before, after, event, self.jobs)

    def _fits(self, job: str, name: str) -> bool:
        return name == self.wanted or (len(self.wanted) >= 4 and job.startswith(self.wanted))


def _around(before: State, after: State, event: AnyEvent, jobs: dict[str, str]) -> bool:
    """What stops and lets go on whatever is in hand, if that is one of these jobs."""
    stops = kinds.DaemonHeld | kinds.Resumed | kinds.PauseRequested | kinds.StorageExhausted | kinds.StorageFreed
    current = after.current or before.current
    return isinstance(event, stops) and current is not None and current.id in jobs


@dataclass
class FailureTimeline(Timeline):
    """`seq`: the record that tells of it. What led to it, and what followed until work went on."""

    seq: int = 0
    _job: str | None = None
    _over: bool = False

    def concerns(self, before: State, after: State, record: Record) -> bool:
        event = record.event
        job = getattr(event, "job", None)
        if record.seq < self.seq:
            if isinstance(event, kinds.AttemptStarted | versions.ConsolidationStarted):
                self.entries.clear()  # only what led to it
            begins = kinds.AttemptStarted | kinds.TrainingStarted | kinds.StepReached | kinds.CheckpointCommitted
            detours = guard.MicrobatchSplit | guard.BatchSkipped
            return isinstance(event, begins | detours | versions.ConsolidationStarted)
        if record.seq == self.seq:
            self._job = job or (before.current.id if before.current is not None else None)
            self._over = not self.failures.found or self.failures.found[-1].seq != self.seq
            return not self._over
        if self._over or isinstance(event, kinds.StepReached):
            return False
        ends = kinds.CheckpointCommitted | kinds.JobTrained | kinds.JobSkipped | kinds.JobRejected
        self._over = isinstance(event, ends) and job == self._job
        self._over = self._over or isinstance(event, versions.VersionPublished)
        mine = job == self._job if job is not None else getattr(event, "attempt", None) is not None
        return mine or _around(before, after, event, {self._job or "": ""}) or isinstance(event, kinds.Resumed)

    def observe(self, before: State, after: State, record: Record) -> None:
        """As every timeline; what only led up to a record that is no crash is no story."""
        super().observe(before, after, record)
        if record.seq < self.seq:
            self.found = False


@dataclass
class StepTimeline(Timeline):
    """`step`: global. Each time that it was reached, what holds it, and what became of that."""

    step: int = 0

    def concerns(self, before: State, after: State, record: Record) -> bool:
        event = record.event
        at_a_step = kinds.StepReached | kinds.DivergenceDetected | guard.AnyDetour | EvaluationDone
        if isinstance(event, at_a_step):
            return event.global_step == self.step
        if isinstance(event, kinds.CheckpointCommitted):
            return before.global_step < self.step <= event.global_step
        if isinstance(event, versions.VersionPublished):
            branch = self.lineage.published[event.version]
            return bool(branch.parts) and branch.parts[-1].global_to >= self.step > before.base_step
        moves = kinds.CheckpointQuarantined | versions.HeadMoved
        return isinstance(event, moves) and (before.global_step >= self.step) != (after.global_step >= self.step)


@dataclass
class CheckpointTimeline(Timeline):
    """`checkpoint`: its name. Its commit, copies of it, what was made of it, and its end."""

    checkpoint: str = ""

    _in_a_version: bool = False

    def concerns(self, before: State, _after: State, record: Record) -> bool:
        event = record.event
        if isinstance(event, versions.VersionPublished) and not self._in_a_version:
            commits = self.lineage.published[event.version].commits
            self._in_a_version = any(name == self.checkpoint for _, name in commits)
            return self._in_a_version
        head = before.head.id if before.head is not None else None
        if isinstance(event, versions.HeadMoved) and self.checkpoint == head:
            return True
        return getattr(event, "checkpoint", None) == self.checkpoint and not isinstance(event, kinds.TrainingStarted)


@dataclass
class VersionTimeline(Timeline):
    """`version`: its name. From the wish for it to its end, and when the head stood on it."""

    version: str = ""
    _asked: tuple[State, State, Record] | None = None
    _attempts: set[int] = field(default_factory=set)

    def concerns(self, before: State, after: State, record: Record) -> bool:
        event = record.event
        if isinstance(event, versions.ConsolidationRequested):
            self._asked = (before, after, record)
            return False
        if isinstance(event, versions.ConsolidationStarted) and event.version == self.version:
            self._attempts.add(event.attempt)
            if self._asked is not None:
                self.tell(*self._asked)
                self._asked = None
        if isinstance(event, versions.HeadMoved) and before.base == self.version:
            return True
        mine = getattr(event, "version", None) == self.version
        of_its_attempts = getattr(event, "attempt", None) in self._attempts and not hasattr(event, "job")
        return mine or of_its_attempts


def _meaning(event: AnyEvent) -> str:
    """What a failure means, behind the sentence that names it."""
    match event:
        case kinds.AttemptFailed(failure=failure):
            return f" ({EXPLANATIONS[failure].meaning})"
        case versions.ConsolidationAborted(failure=str(failure)):
            return f" ({EXPLANATIONS[failure].meaning})"
        case kinds.DivergenceDetected():
            return f" ({EXPLANATIONS['diverged'].meaning})"
        case _:
            return ""


def _again(record: Record) -> str:
    """When it is tried again, behind a failure that waiting may mend."""
    retry_at: float | None = getattr(record.event, "retry_at", None)
    if retry_at is None:
        return ""
    wait_s = retry_at - datetime.fromisoformat(record.at).timestamp()
    return f"; to be tried again after {max(0.0, wait_s):.0f} s"


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float | int) else str(value)
