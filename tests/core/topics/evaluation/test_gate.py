"""The gate's policy: noise alone holds nothing, and what got worse beyond chance is named."""

from __future__ import annotations

from typing import Any

import pytest

from core.topics.evaluation.gate import worse_than_parent
from events.evaluation import Comparison, FileChange, QuestionScore, Scores
from events.settings import VersionSettings

NAMES = {"a" * 64: "a.jsonl", "b" * 64: "b.jsonl"}
LIMITS = VersionSettings(max_forgetting=0.1, max_drop=0.05)


def judge(*changes: FileChange, right: int = 10, before: int = 10, limits: VersionSettings = LIMITS) -> str:
    comparison = Comparison(
        parent="v001", scores=Scores(questions=QuestionScore(total=10, right=before)), changes=changes
    )
    scores = Scores(questions=QuestionScore(total=10, right=right))
    return worse_than_parent(scores, comparison, limits, NAMES.__getitem__)


def change(name: str, estimate: Any, low: float | None, high: float | None = 9.0) -> FileChange:
    return FileChange(job=name * 64, rows=16, change=estimate, low=low, high=high)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        (change("a", 0.09, 0.05),),
        (change("a", 0.5, 0.1),),
        (change("a", 0.5, None, None),),
        (change("a", -0.5, -0.6), change("b", 0.2, -0.1)),
    ],
)
def test_what_may_be_noise_is_not_worse(changes: tuple[FileChange, ...]) -> None:
    """The whole interval must be above the limit; too few rows have none."""
    assert judge(*changes) == ""


def test_the_worst_file_is_named() -> None:
    reason = judge(change("a", 0.3, 0.2), change("b", 0.7, 0.11), change("a", 0.0, -0.1))
    assert reason == (
        "the loss on held-out rows of b.jsonl (and of 1 more) rose by 0.70 nats per token (95 % interval from 0.11, "
        "max_forgetting 0.1)"
    )


def test_a_loss_that_is_not_finite_is_worse() -> None:
    assert judge(change("a", "NaN", None, None)) == "the loss on held-out rows of a.jsonl is not finite"


@pytest.mark.parametrize(("right", "worse"), [(10, False), (11, False), (9, True), (0, True)])
def test_right_answers_may_fall_by_the_limit(right: int, worse: bool) -> None:
    assert bool(judge(right=right)) == worse


def test_a_fall_by_exactly_the_limit_is_allowed() -> None:
    assert judge(right=9, limits=VersionSettings(max_drop=0.1)) == ""


def test_both_reasons_are_given() -> None:
    assert judge(change("a", 0.3, 0.2), right=5).count("; ") == 1


def test_nothing_is_judged_without_a_parent_or_with_the_gate_off() -> None:
    assert worse_than_parent(Scores(), None, LIMITS, NAMES.__getitem__) == ""
    assert judge(right=0, limits=VersionSettings(gate="off")) == ""
