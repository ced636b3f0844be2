"""Results of evaluations: sums of rows, and records of bounded size."""

from __future__ import annotations

import msgspec
import pytest

from events.codec import encode
from events.evaluation import (
    Comparison,
    FileChange,
    FileScore,
    ModelResults,
    QuestionResult,
    QuestionScore,
    ResultsFile,
    RowScore,
    Scores,
    scores_of,
)
from events.kinds import VersionEvaluated
from events.settings import EvaluationSettings
from events.values import evaluation_of_job, evaluation_of_version, is_results_file

A, B = "a" * 64, "b" * 64


def row(job: str, tokens: int, loss: object, right: int) -> RowScore:
    return RowScore(id="1", job=job, tokens=tokens, loss=loss, right=right)


def test_rows_are_added_up_by_file() -> None:
    """The mean is over tokens, not over rows."""
    rows = (row(A, 1, 4.0, 1), row(B, 2, 1.0, 0), row(A, 3, 2.0, 1))
    assert scores_of(ModelResults(rows=rows)).files == (
        FileScore(job=A, rows=2, tokens=4, loss=1.5, accuracy=0.5),
        FileScore(job=B, rows=1, tokens=2, loss=0.5, accuracy=0.0),
    )


def test_a_loss_that_is_not_finite_makes_the_sum_so() -> None:
    (file,) = scores_of(ModelResults(rows=(row(A, 1, 1.0, 1), row(A, 1, "NaN", 0)))).files
    assert file.loss == "NaN"


def test_right_answers_are_counted() -> None:
    answers = tuple(
        QuestionResult(id=str(n), content="", suite="s", prompt="", expected="", answer="", right=n < 2)
        for n in range(5)
    )
    assert scores_of(ModelResults(questions=answers)).questions == QuestionScore(total=5, right=2)


def test_the_largest_record_stays_below_a_megabyte() -> None:
    """As many files as can be set."""
    number = 123456.123456789
    files = tuple(
        FileScore(job=A, rows=1024, tokens=10**9, loss=number, accuracy=0.123456789012345) for _ in range(1024)
    )
    changes = tuple(FileChange(job=A, rows=1024, change=number, low=number, high=number) for _ in range(1024))
    event = VersionEvaluated(
        attempt=1,
        version="v001",
        results=ResultsFile(id="v001-attempt-0001", sha256=A, size_bytes=1),
        scores=Scores(files=files),
        comparison=Comparison(parent=None, scores=Scores(files=files), changes=changes),
        divergence=None,
        suites_sha256=A,
        seconds=1.0,
        problem="",
        worse="",
    )
    assert len(encode(event)) < 1 << 20
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"files": 1025}, EvaluationSettings)


def test_names_of_results_files_are_recognized() -> None:
    names = [evaluation_of_version("v012", 7), evaluation_of_job(123, 7)]
    assert all(is_results_file(f"{name}.json") for name in names)
    assert not any(map(is_results_file, ("mine.json", "v012.json", f"{names[0]}.json.bak", names[0])))
