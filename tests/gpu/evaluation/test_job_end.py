"""The evaluation at the end of a job: the same bits with and without it, bounded, and never in the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from events.evaluation import EvaluationResults, HeldOutFile, ModelResults, Suites, scores_of
from events.messages import CheckpointWritten, Heartbeat, JobEvaluated, Step
from events.settings import DataSettings, JobSettings
from gpu.errors import EvaluationFailed
from gpu.evaluation import job_end
from gpu.evaluation.questions import chosen_questions
from gpu.evaluation.results import read_results, results_path
from tests.gpu.helpers import FULL, LORA, QLORA, Home, settings
from tests.harness.tiny_model import make_rows

ROWS = make_rows(40)
HELD_OUT = DataSettings(holdout=0.3)
QUESTION = {"prompt": "What is 2 + 2?", "expected": "4"}


def suites(job: str, **changes: Any) -> Suites:
    """The held-out rows of one file, and short answers."""
    file = HeldOutFile(job=job, data=HELD_OUT)
    return Suites(**{"files": (file,), "new": (job,), "max_new_tokens": 8, **changes})


def ask(home: Home, *questions: dict[str, Any]) -> None:
    """Write a file of questions."""
    (home.path / "evaluation").mkdir(exist_ok=True)
    (home.path / "evaluation" / "mine.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in questions))


def train(home: Home, how: JobSettings, *, evaluates: bool, **changes: Any) -> dict[str, str]:
    """Train two jobs with one worker; the bits of the second one's weights."""
    session, first, second = home.new_session(), home.add(ROWS), home.add(make_rows(40, start=50))
    checkpoint = home.train_job(session, first, how, suites=suites(first, **changes) if evaluates else None)
    step = home.channel.of(Step)[-1].global_step
    wanted = suites(second, **changes) if evaluates else None
    last = home.train_job(session, second, how, checkpoint=checkpoint, global_step=step, suites=wanted)
    return home.bits(last)


@pytest.mark.parametrize("method", [LORA, FULL, QLORA], ids=["lora", "full", "qlora"])
def test_training_has_the_same_bits_with_and_without_it(home: Home, method: Any) -> None:
    """Dropout draws random numbers, and the second job starts from the model in memory."""
    how = settings(method, data=HELD_OUT)
    without = train(home, how, evaluates=False)
    ask(home, QUESTION)
    assert train(home, how, evaluates=True) == without
    reports = home.channel.of(JobEvaluated)
    assert len(reports) == 2
    assert all(not report.problem for report in reports)
    assert all(report.scores.files[0].rows > 3 and report.scores.questions.total == 1 for report in reports)
    if method == FULL:
        assert reports[0].divergence is None
    else:
        assert reports[0].divergence.nats > 0


def test_results_are_durable_before_the_report_and_private(home: Home) -> None:
    job = home.add(ROWS)
    ask(home, QUESTION)
    home.train_job(home.new_session(), job, settings(data=HELD_OUT), suites=suites(job))
    (report,) = home.channel.of(JobEvaluated)
    path = results_path(home.path, report.results.id)
    assert path.stat().st_mode & 0o777 == 0o600
    found = read_results(home.path, report.results)
    assert isinstance(found, EvaluationResults)
    assert scores_of(found.results) == report.scores
    assert found.suites_sha256 == report.suites_sha256
    assert len({row.id for row in found.results.rows}) == len(found.results.rows)
    facts = [type(fact) for fact in home.channel.facts if isinstance(fact, JobEvaluated | CheckpointWritten)]
    assert facts == [JobEvaluated, CheckpointWritten]
    path.write_bytes(path.read_bytes() + b" ")
    assert read_results(home.path, report.results) is None


def test_nothing_to_evaluate_reports_nothing(home: Home) -> None:
    job = home.add(ROWS)
    home.train_job(home.new_session(), job, settings(), suites=Suites())
    assert home.channel.of(JobEvaluated) == []
    assert not (home.path / "evaluations").exists()


def test_an_error_ends_it_and_not_the_training(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that leaves no result."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a broken\nmodel")

    monkeypatch.setattr(job_end, "score_rows", fail)
    job = home.add(ROWS)
    home.train_job(home.new_session(), job, settings(data=HELD_OUT), suites=suites(job))
    (report,) = home.channel.of(JobEvaluated)
    assert (report.results, report.problem) == (None, "a broken model")


def test_a_failing_disk_is_no_matter_of_the_evaluation_alone(home: Home) -> None:
    """A file stands where the results belong."""
    (home.path / "evaluations").write_text("")
    job = home.add(ROWS)
    with pytest.raises(EvaluationFailed):
        home.train_job(home.new_session(), job, settings(data=HELD_OUT), suites=suites(job))


def test_a_batch_that_does_not_fit_is_halved(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    job, how = home.add(ROWS), settings(data=HELD_OUT, batch_size=4)
    home.train_job(home.new_session(), job, how, suites=suites(job))
    (whole,) = home.channel.of(JobEvaluated)
    monkeypatch.setenv("KEEPSTEP_FAULTS", f"suites:{whole.global_step}:1")
    home.train_job(home.new_session(), job, how, suites=suites(job))
    (halved,) = home.channel.of(JobEvaluated)
    assert not halved.problem
    ours, theirs = halved.scores.files[0], whole.scores.files[0]
    assert (ours.rows, ours.tokens) == (theirs.rows, theirs.tokens)
    assert ours.loss == pytest.approx(theirs.loss, abs=1e-4)


def test_it_ends_when_its_time_is_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_end, "SECONDS_MIN", -1.0)
    monkeypatch.setattr(job_end, "COST_MAX", 0.0)
    job = home.add(ROWS)
    home.train_job(home.new_session(), job, settings(data=HELD_OUT), suites=suites(job))
    (report,) = home.channel.of(JobEvaluated)
    assert "ended early" in report.problem


def test_it_is_bounded_and_beats(home: Home) -> None:
    job = home.add(ROWS)
    ask(home, *({**QUESTION, "id": str(number)} for number in range(5)))
    wanted = suites(job, rows_max=3, questions_max=2)
    home.train_job(home.new_session(), job, settings(data=HELD_OUT), suites=wanted)
    (report,) = home.channel.of(JobEvaluated)
    assert report.scores.files[0].rows == 2  # a power of two
    assert report.scores.questions.total == 2
    assert any(beat.phase == "evaluate" for beat in home.channel.of(Heartbeat))


def test_a_missing_file_is_a_problem_and_the_others_are_scored(home: Home) -> None:
    job = home.add(ROWS)
    gone = HeldOutFile(job="ab" * 32, data=HELD_OUT)
    wanted = suites(job, files=(gone, *suites(job).files))
    home.train_job(home.new_session(), job, settings(data=HELD_OUT), suites=wanted)
    (report,) = home.channel.of(JobEvaluated)
    assert "abababababab" in report.problem
    assert [file.job for file in report.scores.files] == [job]


def test_results_of_no_file_are_none(tmp_path: Path) -> None:
    assert read_results(tmp_path, None) is None
    assert scores_of(ModelResults()).files == ()


def test_a_smaller_number_of_questions_is_part_of_a_larger_one(tmp_path: Path) -> None:
    """In the order of the files, and the same each time."""
    (tmp_path / "evaluation").mkdir()
    rows = "".join(json.dumps({"prompt": f"What is {n}?", "expected": str(n)}) + "\n" for n in range(9))
    (tmp_path / "evaluation" / "mine.jsonl").write_text(rows, encoding="utf-8")
    few, many, every = (chosen_questions(tmp_path, Suites(files=(), questions_max=most))[0] for most in (3, 6, 99))
    assert (len(few), len(many), len(every)) == (3, 6, 9)
    ids = {each.id for each in many}
    assert [each for each in every if each.id in ids] == many
    assert {each.id for each in few} < ids
    assert chosen_questions(tmp_path, Suites(files=(), questions_max=0)) == ([], [])
