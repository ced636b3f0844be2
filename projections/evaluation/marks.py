"""What the status and lists show of evaluations: the last job's, and one mark for each version."""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from core.state import State
from events import kinds
from events.codec import Record
from events.evaluation import FileChange
from events.kinds import JobEvaluated, VersionEvaluated, VersionEvaluationFailed
from events.statistics import average
from projections.progress import Measured, Progress, VersionMark

Verdict = Literal["pending", "held", "worse", "failed", "incomplete", "ok", ""]
"""What is known about a version; "": it was not evaluated."""


def with_evaluation(progress: Progress, record: Record, before: State) -> Progress:
    """The progress after an event about an evaluation."""
    event = record.event
    match event:
        case JobEvaluated():
            return replace(progress, measured=_measured(record, event, before))
        case VersionEvaluated():
            return replace(progress, marks={**progress.marks, event.version: _mark(event)})
        case VersionEvaluationFailed(retry=False):
            mark = replace(progress.marks.get(event.version, VersionMark()), failed=event.message)
            return replace(progress, marks={**progress.marks, event.version: mark})
        case kinds.VersionDeleted() if event.version in progress.marks:
            marks = {version: mark for version, mark in progress.marks.items() if version != event.version}
            return replace(progress, marks=marks)
        case _:
            return progress


def verdict(version: str, state: State, mark: VersionMark | None) -> Verdict:
    """What is known about a version, in one word."""
    if state.evaluations.is_pending(version):
        return "pending"
    if state.evaluations.hold_of(version) is not None:
        return "held"
    if mark is None:
        return ""
    if mark.failed:
        return "failed"
    if mark.worse:
        return "worse"
    return "incomplete" if mark.problem else "ok"


def worst_change(changes: tuple[FileChange, ...]) -> FileChange | None:
    """The file whose loss rose most; a loss that is not finite counts as the most."""
    return max(changes, key=lambda each: float("inf") if isinstance(each.change, str) else each.change, default=None)


def _measured(record: Record, event: JobEvaluated, before: State) -> Measured:
    job = before.training.current
    losses = {each.job: each.loss for each in event.scores.files if isinstance(each.loss, float)}
    broken = len(event.scores.files) - len(losses)
    finite = f"the loss on held-out rows of {broken} of {len(event.scores.files)} files is not finite" if broken else ""
    return Measured(
        at=record.at,
        name=job.name if job is not None else event.job[:12],
        files=len(event.scores.files),
        loss=average(losses),
        questions=event.scores.questions,
        problem="; ".join(filter(None, (finite, event.problem))),
    )


def _mark(event: VersionEvaluated) -> VersionMark:
    worst = worst_change(event.comparison.changes) if event.comparison is not None else None
    return VersionMark(
        questions=event.scores.questions,
        worst=worst.change if worst is not None else None,
        worst_job=worst.job if worst is not None else "",
        worse=event.worse,
        problem=event.problem,
    )
