"""Lineage: which files, and which of their steps, the weights were trained on, in order.

A fold over the whole journal, made on request, because the state drops finished jobs. Steps that were lost with a
checkpoint and ran again are listed as they ran the last time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from core.evolve import evolve
from core.state import State
from events import kinds
from events.codec import Record
from events.course import Course
from events.kinds import AnyEvent
from events.settings import JobSettings, Plan
from events.trained import TrainedFile
from events.values import CheckpointId, JobId, VersionId


class Part(Struct, frozen=True, kw_only=True):
    """Consecutive steps of one job with the same settings, libraries and device."""

    job: JobId
    """SHA-256 of the data file."""
    name: str
    size_bytes: int
    settings: JobSettings
    plan: Plan
    step_from: int
    """Steps of the job: after `step_from`, up to and including `step_to`."""
    step_to: int
    base: VersionId | None
    """The base model; None: the origin."""
    global_from: int
    global_to: int
    attempts: tuple[int, ...]
    keepstep: str
    """The version of keepstep that ran."""
    environment: dict[str, str]
    course: Course = Course()
    """Skipped batches and split micro-batches, as known at the last step."""

    def until(self, global_step: int) -> Part:
        """The steps of this part up to and including `global_step`."""
        end = min(self.global_to, global_step)
        return replace(self, global_to=end, step_to=self.step_from + end - self.global_from)


@dataclass
class Branch:
    """The history of one set of weights: its parts, the oldest first, and the checkpoints committed on the way."""

    parts: list[Part] = field(default_factory=list)
    commits: list[tuple[int, CheckpointId]] = field(default_factory=list)
    """(global step, checkpoint), including pruned checkpoints."""

    def until(self, global_step: int) -> Branch:
        """The history of the weights after `global_step`."""
        parts = [part.until(global_step) for part in self.parts if part.global_from < global_step]
        return Branch(parts, [commit for commit in self.commits if commit[0] <= global_step])


@dataclass
class Lineage(Branch):
    """The branch of the head, and the branches that the head has left."""

    left: list[Branch] = field(default_factory=list)
    forgotten: list[Branch] = field(default_factory=list)
    """Branches that ended in a quarantined checkpoint; their last steps run again."""
    published: dict[VersionId, Branch] = field(default_factory=dict)
    """The branch of each version, including deleted versions."""
    keepstep: str = ""
    """The version of the daemon that runs."""

    def observe(self, before: State, event: AnyEvent) -> None:
        """Fold one event; `before` is the state before it."""
        if isinstance(event, kinds.DaemonStarted):
            self.keepstep = event.keepstep
        elif isinstance(event, kinds.CheckpointCommitted):
            self._forget_after(before.head.global_step)
            self._add(before, event)
        elif isinstance(event, kinds.VersionPublished):
            self._forget_after(before.head.global_step)
            self.published[event.version] = self.until(before.head.global_step)
        elif isinstance(event, kinds.HeadMoved):
            self._move(before, event)

    def branch_of(self, checkpoint: CheckpointId) -> Branch | None:
        """The branch up to a checkpoint, on whichever branch it was committed; None: there is no such checkpoint."""
        for branch in (self, *reversed(self.left), *reversed(self.forgotten)):
            for global_step, name in branch.commits:
                if name == checkpoint:
                    return branch.until(global_step)
        return None

    def committed(self) -> Iterator[CheckpointId]:
        """Every checkpoint that was ever committed, on whichever branch."""
        for branch in (self, *self.left, *self.forgotten):
            yield from (name for _, name in branch.commits)

    def _move(self, before: State, event: kinds.HeadMoved) -> None:
        self.left.append(self.until(before.head.global_step))
        target = self.published.get(event.version, Branch()) if event.version is not None else Branch()
        if event.checkpoint is not None:
            target = self.branch_of(event.checkpoint) or target
        self.parts, self.commits = list(target.parts), list(target.commits)

    def _forget_after(self, global_step: int) -> None:
        """Drop the steps after `global_step`, whose checkpoint was quarantined; keep a copy that a backup may need."""
        if self.commits and self.commits[-1][0] > global_step:
            self.forgotten.append(self.until(self.commits[-1][0]))
        while self.parts and self.parts[-1].global_from >= global_step:
            self.parts.pop()
        if self.parts:
            self.parts[-1] = self.parts[-1].until(global_step)
        while self.commits and self.commits[-1][0] > global_step:
            self.commits.pop()

    def _add(self, before: State, event: kinds.CheckpointCommitted) -> None:
        job = before.training.current
        assert job is not None  # a job commits
        assert job.settings is not None
        assert job.plan is not None
        steps = event.global_step - before.head.global_step
        part = Part(
            job=job.id,
            name=job.name,
            size_bytes=job.size_bytes,
            settings=job.settings,
            plan=job.plan,
            step_from=event.step - steps,
            step_to=event.step,
            base=before.head.base,
            global_from=before.head.global_step,
            global_to=event.global_step,
            attempts=(event.attempt,),
            keepstep=self.keepstep,
            environment=before.training.environment,
            course=job.course,
        )
        last = self.parts[-1] if self.parts else None
        if last is not None and _continues(last, part):
            attempts = last.attempts if last.attempts[-1] == event.attempt else (*last.attempts, event.attempt)
            self.parts[-1] = replace(
                last, step_to=part.step_to, global_to=part.global_to, attempts=attempts, course=part.course
            )
        else:
            self.parts.append(part)
        self.commits.append((event.global_step, event.checkpoint))


def _continues(last: Part, part: Part) -> bool:
    return last.step_to == part.step_from and all(
        getattr(last, name) == getattr(part, name)
        for name in ("job", "settings", "plan", "base", "keepstep", "environment")
    )


class LineageAt(NamedTuple):
    """The lineage at one record of the journal."""

    latest: State
    """The state at the end of the journal."""
    state: State | None
    """The state at the record; None: the journal has no such record."""
    lineage: Lineage
    last_seq: int
    """The number of the last record."""


def fold_lineage(records: Iterable[Record], seq: int | None = None) -> LineageAt:
    """Fold the whole journal; return the lineage at record `seq` (None: at the end).

    Raises core.errors.IllegalEvent.
    """
    latest, state, lineage, last_seq = State(), None, Lineage(), 0
    for record in records:
        if state is None:
            lineage.observe(latest, record.event)
        latest, last_seq = evolve(latest, record.event), record.seq
        if record.seq == seq:
            state = latest
    return LineageAt(latest, latest if seq is None else state, lineage, last_seq)


def trained_files(records: Iterable[Record]) -> tuple[TrainedFile, ...]:
    """Every file, or range of its steps, that the weights of the head were trained on."""
    latest, _, lineage, _ = fold_lineage(records)
    return tuple(
        TrainedFile(
            name=part.name,
            sha256=part.job,
            rows=part.plan.rows,
            epochs=part.plan.epochs,
            steps=(part.global_from + 1, part.global_to),
        )
        for part in lineage.until(latest.head.global_step).parts
    )
