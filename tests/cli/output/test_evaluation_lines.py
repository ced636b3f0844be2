"""Evaluations in words: what was measured, what is worse, what to do."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from cli.output.evaluation_lines import job_text, scores_text, version_text
from core.state import State
from core.structures.evaluations import Evaluations, Held
from events import kinds
from events.evaluation import FileScore, QuestionScore, Scores
from events.kinds import AnyEvent
from tests.events.examples import EVENTS


def example(kind: type[Any]) -> Any:
    return next(event for event in EVENTS if isinstance(event, kind))


def text(event: AnyEvent, state: State | None = None) -> str:
    found = version_text(event, state or State())
    assert found is not None
    return found


def test_each_file_counts_once_in_the_mean() -> None:
    files = tuple(
        FileScore(job=name * 64, rows=1, tokens=tokens, loss=loss, accuracy=0.5)
        for name, tokens, loss in (("a", 3, 1.0), ("b", 1, 2.0))
    )
    scores = Scores(files=files, questions=QuestionScore(total=10, right=9))
    assert scores_text(scores) == "held-out loss 1.5000 on 2 files, 9 of 10 questions right"


def test_a_job_says_what_was_measured_or_why_nothing_was() -> None:
    measured = example(kinds.JobEvaluated)
    assert job_text(measured) == "evaluated: held-out loss not finite on 2 files, 4 of 10 questions right (1.2 s)"
    assert job_text(replace(measured, results=None, problem="2 GiB are missing")) == "not evaluated: 2 GiB are missing"


def test_a_version_is_compared_with_its_parent() -> None:
    said = text(example(kinds.VersionEvaluated))
    assert "evaluated v002: held-out loss not finite on 2 files, 4 of 10 questions right; before: " in said
    assert "worse than its parent: right answers fell from 9 to 4 of 10" in said


def test_a_reason_is_said_once_if_the_version_is_held() -> None:
    state = State(evaluations=Evaluations(held=(Held("v002"),)))
    assert "worse than its parent" not in text(example(kinds.VersionEvaluated), state)
    assert "right answers fell" in text(example(kinds.VersionHeld), state)


def test_a_held_version_names_the_commands() -> None:
    said = text(example(kinds.VersionHeld))
    assert "→ training continues without it" in said
    assert "`keepstep versions promote v002`" in said
    assert "`keepstep versions discard v002`" in said


def test_a_failure_says_whether_it_is_tried_again() -> None:
    failed = example(kinds.VersionEvaluationFailed)
    assert text(failed).endswith("no progress; it is tried again")
    assert "`keepstep versions evaluate v002`" in text(replace(failed, retry=False))
    assert "was interrupted" in text(replace(failed, failure=None))


def test_a_promotion_says_who_decided() -> None:
    assert text(kinds.VersionPromoted(version="v002", by="gate")).endswith("(the gate promoted it)")
    assert text(kinds.VersionPromoted(version="v002", by="person")).endswith("(you promoted it)")
