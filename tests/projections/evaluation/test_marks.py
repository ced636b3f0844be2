"""A mark for each version, which lists and the status show."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from core.job import Job
from core.state import State
from core.structures.evaluations import Evaluations, Held, Pending
from core.topics.evaluation.replay_share import ReplayShare
from core.topics.training import Training
from events import kinds
from events.codec import Record
from events.evaluation import Comparison, FileChange, QuestionScore
from events.kinds import AnyEvent, VersionEvaluated, VersionEvaluationFailed
from projections.evaluation.marks import verdict, with_evaluation, worst_change
from projections.progress import Progress, VersionMark
from tests.events.examples import EVALUATED, EVENTS
from tests.projections.evaluation.test_matrix import A, B, evaluated

DONE = VersionEvaluated(attempt=5, **EVALUATED, worse="it forgot")
FAILED = VersionEvaluationFailed(
    attempt=5, version="v002", failure="hang", message="no progress", retry=False, retry_at=None
)


def folded(*events: AnyEvent, state: State | None = None) -> Progress:
    progress = Progress()
    for event in events:
        record = Record(seq=1, at="now", durable=0, prev="", event=event, crc="")
        progress = with_evaluation(progress, record, state or State())
    return progress


def test_a_version_has_the_mark_of_its_newest_evaluation() -> None:
    mark = folded(DONE).marks["v002"]
    assert (mark.questions, mark.worst, mark.worse) == (QuestionScore(total=10, right=4), 0.25, "it forgot")
    assert folded(DONE, FAILED).marks["v002"].failed == "no progress"
    assert folded(FAILED, DONE).marks["v002"].failed == ""
    assert folded(DONE, replace(FAILED, retry=True)) == folded(DONE)
    deleted = next(event for event in EVENTS if isinstance(event, kinds.VersionDeleted))
    assert folded(DONE, replace(deleted, version="v002")).marks == {}


def test_what_the_snapshot_keeps_can_be_read_again() -> None:
    """A value that its own type refuses would make every snapshot unreadable, and every start slow."""
    for progress in (folded(DONE), folded(FAILED), folded(evaluated(B, 20, {A: 1.0}))):
        assert msgspec.json.decode(msgspec.json.encode(progress), type=Progress) == progress
    known = ReplayShare().measured(evaluated(B, 20, {A: 1.0}))
    assert msgspec.json.decode(msgspec.json.encode(known), type=ReplayShare) == known


def test_the_last_job_is_summed_up() -> None:
    """The mean over the files; a loss that is not finite counts in no mean, and is said."""
    job = Job(id=B, name="b.jsonl", size_bytes=1, priority="normal", status="training")
    measured = folded(evaluated(B, 20, {A: 1.0, B: "NaN"}), state=State(training=Training(in_progress=(job,)))).measured
    assert measured is not None
    assert measured.problem == "the loss on held-out rows of 1 of 2 files is not finite"
    assert (measured.name, measured.files, measured.loss, measured.questions.right) == ("b.jsonl", 2, 1.0, 1)


@pytest.mark.parametrize(
    ("evaluations", "mark", "word"),
    [
        (Evaluations(pending=(Pending("v002"),), held=(Held("v002"),)), None, "pending"),
        (Evaluations(held=(Held("v002"),)), VersionMark(worse="x"), "held"),
        (Evaluations(), VersionMark(worse="x", failed="y"), "failed"),
        (Evaluations(), VersionMark(worse="x", problem="y"), "worse"),
        (Evaluations(), VersionMark(problem="y"), "incomplete"),
        (Evaluations(), VersionMark(), "ok"),
        (Evaluations(), None, ""),
    ],
)
def test_a_verdict_is_one_word(evaluations: Evaluations, mark: VersionMark | None, word: str) -> None:
    assert verdict("v002", State(evaluations=evaluations), mark) == word


def test_a_loss_that_is_not_finite_is_the_worst_change() -> None:
    rose = FileChange(job=A, rows=5, change=9.0, low=8.0, high=10.0)
    broke = FileChange(job=B, rows=5, change="NaN", low=None, high=None)
    comparison = Comparison(parent=None, scores=DONE.scores, changes=(rose, broke))
    assert worst_change(comparison.changes) == broke
    assert worst_change(()) is None
