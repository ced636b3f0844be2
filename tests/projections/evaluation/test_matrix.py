"""The matrix of scores: what was trained, what was forgotten, and what is dropped."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from events import kinds
from events.codec import Record
from events.evaluation import FileScore, QuestionScore, Scores
from events.kinds import AnyEvent, JobEvaluated, VersionEvaluated, VersionHeld, VersionPromoted
from projections.evaluation import matrix as evaluation
from projections.evaluation.matrix import EvaluationChart, EvaluationHistory
from tests.events.examples import EVALUATED, EVENTS

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
MOVED = next(event for event in EVENTS if isinstance(event, kinds.HeadMoved))
FILE = next(event for event in EVENTS if isinstance(event, kinds.FileEnqueued))


def evaluated(job: str, step: int, losses: dict[str, float | str], *, rows: int = 4) -> JobEvaluated:
    files = tuple(
        FileScore(job=file, rows=rows, tokens=10 * rows, loss=loss, accuracy=0.5) for file, loss in losses.items()
    )
    return JobEvaluated(
        job=job,
        attempt=1,
        global_step=step,
        step=step,
        results=None,
        scores=Scores(files=files, questions=QuestionScore(total=2, right=1)),
        divergence=None,
        suites_sha256="",
        seconds=1.0,
        problem="",
    )


def chart(*events: AnyEvent) -> EvaluationChart:
    history = EvaluationHistory()
    for seq, event in enumerate(events, start=1):
        history.observe(Record(seq=seq, at="2026-11-22T03:00:00Z", durable=0, prev="", event=event, crc=""))
    return history.chart()


THREE = (
    replace(FILE, job=A, name="a.jsonl"),
    evaluated(A, 10, {A: 1.0}),
    evaluated(B, 20, {A: 0.75, B: 2.0}),
    evaluated(C, 30, {A: 1.5, B: 1.5, C: 0.5}),
)


def test_the_matrix_is_summed_up() -> None:
    """By hand: (1.5 + 1.5 + 0.5) / 3; -((1.5 - 1.0) + (1.5 - 2.0)) / 2; a: 1.5 - 0.75; b: 1.5 - 2.0."""
    found = chart(*THREE)
    assert [(row.name, row.global_step) for row in found.rows] == [
        ("a.jsonl", 10),
        ("b" * 12, 20),
        ("c" * 12, 30),
    ]
    assert found.average_loss == pytest.approx(3.5 / 3)
    assert found.backward_transfer == 0.0
    assert [each.forgetting for each in found.files] == [0.75, -0.5, None]
    assert [each.first_loss for each in found.files] == [1.0, 2.0, 0.5]
    assert found.worst_file == A
    assert found.names[A] == "a.jsonl"


def test_a_home_without_evaluations_has_an_empty_chart() -> None:
    found = chart()
    assert (found.rows, found.files, found.average_loss, found.backward_transfer) == ([], [], None, None)


def test_scores_of_other_rows_are_not_compared() -> None:
    """With more files, fewer rows of each are scored; a loss that is not finite is no number."""
    found = chart(*THREE[:3], evaluated(C, 30, {A: 1.5, B: 1.5}, rows=2))
    assert [each.forgetting for each in found.files] == [None, None]
    assert found.backward_transfer is None
    found = chart(*THREE[:3], evaluated(C, 30, {A: "NaN", B: 2.5}))
    assert [each.forgetting for each in found.files] == [None, 0.5]


def test_rows_that_no_longer_lead_to_the_head_are_dropped() -> None:
    """A job that ran again, and a head that moved."""
    again = evaluated(C, 30, {A: 0.5})
    assert [row.files[0].loss for row in chart(*THREE, again).rows] == [1.0, 0.75, 0.5]
    moved = replace(MOVED, version=None, checkpoint="step-00000010-attempt-0001")
    assert [row.job for row in chart(*THREE, moved).rows] == [A]


def test_the_size_does_not_grow_and_first_and_best_scores_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "ROWS_KEPT", 1)
    monkeypatch.setattr(evaluation, "FILES_KEPT", 2)
    found = chart(*THREE)
    assert len(found.rows) == 1
    assert [each.forgetting for each in found.files] == [0.75, -0.5, None]
    assert found.backward_transfer == 0.0
    many = [evaluated(f"{n:064x}", n, {f"{n:064x}": 1.0}) for n in range(1, 20)]
    history = EvaluationHistory()
    for seq, event in enumerate(many):
        history.observe(Record(seq=seq, at="", durable=0, prev="", event=event, crc=""))
    assert len(history._earlier) == 2


def test_a_version_keeps_its_newest_result_and_verdict() -> None:
    done = VersionEvaluated(attempt=5, **EVALUATED, worse="worse")
    held, promoted = VersionHeld(version="v002", reason="worse"), VersionPromoted(version="v002", by="person")
    (version,) = chart(done, held).versions
    assert (version.held, version.worse, version.promoted_by) == ("worse", "worse", "")
    (version,) = chart(done, held, promoted).versions
    assert (version.held, version.promoted_by) == ("", "person")
    deleted = next(event for event in EVENTS if isinstance(event, kinds.VersionDeleted))
    assert chart(done, replace(deleted, version="v002")).versions == []
