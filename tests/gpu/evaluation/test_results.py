"""Results are compared on what both models were measured on."""

from __future__ import annotations

from events.evaluation import ModelResults, QuestionResult, RowScore
from events.generation import ChatMessage
from gpu.evaluation.judge import Check
from gpu.evaluation.question_files import SuiteQuestion
from gpu.evaluation.results import compare, content_of, suites_fingerprint
from gpu.evaluation.rows import Row

A, B = "a" * 64, "b" * 64


def model(*losses: float | str, job: str = A, right: str = "") -> ModelResults:
    rows = tuple(RowScore(id=str(number), job=job, tokens=2, loss=loss, right=0) for number, loss in enumerate(losses))
    questions = tuple(
        QuestionResult(id=str(n), content=str(n), suite="s", prompt="", expected="", answer="", right=mark == "1")
        for n, mark in enumerate(right)
    )
    return ModelResults(rows=rows, questions=questions)


def test_a_change_is_per_token_with_its_interval() -> None:
    (change,) = compare("v001", model(*[2.0] * 8), model(*[3.0] * 8), "seed").changes
    assert (change.job, change.rows, change.change, change.low, change.high) == (A, 8, 0.5, 0.5, 0.5)


def test_few_rows_have_no_interval() -> None:
    (change,) = compare(None, model(2.0, 2.0), model(3.0, 3.0), "seed").changes
    assert (change.change, change.low, change.high) == (0.5, None, None)


def test_rows_that_only_one_was_scored_on_are_left_out() -> None:
    (change,) = compare(None, model(1.0), model(1.0, 9.0, 9.0), "seed").changes
    assert (change.rows, change.change) == (1, 0.0)
    assert compare(None, model(1.0, job=A), model(1.0, job=B), "seed").changes == ()


def test_a_loss_that_is_not_finite_has_no_interval() -> None:
    (change,) = compare(None, model(*[1.0] * 8), model("NaN", *[1.0] * 7), "seed").changes
    assert (change.change, change.low, change.high) == ("NaN", None, None)


def test_flipped_questions_are_counted() -> None:
    found = compare("v001", model(right="1100"), model(right="1011"), "seed")
    assert (found.gained, found.lost) == (2, 1)
    assert found.scores.questions.right == 2


def test_the_fingerprint_depends_on_the_content_alone() -> None:
    rows = [Row("1", A, [1], [1]), Row("2", A, [2], [1])]
    question = SuiteQuestion("id", (ChatMessage("user", "?"),), "x", Check(), "a.jsonl", 1)
    first = suites_fingerprint(rows, [question], 8)
    assert first == suites_fingerprint(rows[::-1], [question._replace(line=9, file="b.jsonl")], 8)
    assert len({first, suites_fingerprint(rows, [question], 9), suites_fingerprint(rows[:1], [question], 8)}) == 3
    assert suites_fingerprint([], [], 8) == ""


def test_the_content_of_a_question_has_its_check_and_limit() -> None:
    question = SuiteQuestion("id", (ChatMessage("user", "?"),), "x", Check(), "a.jsonl", 1)
    others = [
        content_of(question, 9),
        content_of(question._replace(expected="y"), 8),
        content_of(question._replace(check=Check("exact")), 8),
    ]
    assert content_of(question, 8) not in others
