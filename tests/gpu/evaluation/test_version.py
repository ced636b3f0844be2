"""The evaluation of a version: compared with its parent on the same rows and questions; nothing is measured twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from events.evaluation import HeldOutFile, Suites
from events.messages import Consolidate, EvaluateVersion, Heartbeat, VersionEvaluated
from events.settings import ModelSettings
from events.values import backup_before
from gpu.errors import ArtifactBroken, YieldRequested
from gpu.evaluation import version as evaluating
from gpu.evaluation.results import read_results
from gpu.evaluation.score import score_rows
from gpu.evaluation.version import evaluate_version
from gpu.versions.consolidate import consolidate
from tests.gpu.evaluation.test_job_end import HELD_OUT, QUESTION, ROWS, ask
from tests.gpu.helpers import FakeChannel, Home, settings
from tests.harness.tiny_model import make_rows


class Versions:
    """A home with two versions, each trained on one file."""

    def __init__(self, home: Home) -> None:
        self.home, self.files, step = home, list[str](), 0
        how = settings(data=HELD_OUT, learning_rate=0.02)
        for number, rows in enumerate((ROWS, make_rows(40, start=60)), start=1):
            self.files.append(home.add(rows))
            parent = f"v{number - 1:03d}" if number > 1 else None
            session = home.new_session()
            checkpoint = home.train_job(session, self.files[-1], how, global_step=step, base=parent)
            step = int(checkpoint.split("-")[1])
            order = Consolidate(
                attempt=100 + number,
                version=f"v{number:03d}",
                parent=parent,
                checkpoint=checkpoint,
                backup=backup_before(f"v{number:03d}", 100 + number),
                description="",
            )
            consolidate(home.path, order, FakeChannel())

    def order(self, **changes: Any) -> EvaluateVersion:
        files = tuple(HeldOutFile(job=job, data=HELD_OUT) for job in self.files)
        order = EvaluateVersion(
            attempt=200,
            version="v002",
            parent="v001",
            evaluation="v002-attempt-0200",
            suites=Suites(files=files, new=(self.files[1],), max_new_tokens=8),
            model=ModelSettings(path="model"),
        )
        return replace(order, **changes)

    def evaluate(self, **changes: Any) -> VersionEvaluated:
        channel = FakeChannel()
        evaluate_version(self.home.path, self.order(**changes), channel)
        assert any(beat.phase == "evaluate" for beat in channel.of(Heartbeat))
        (report,) = channel.of(VersionEvaluated)
        assert isinstance(report, VersionEvaluated)
        return report


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, model_directory: Path) -> Versions:
    path = tmp_path_factory.mktemp("versions")
    (path / "model").symlink_to(model_directory)
    made = Versions(Home(path))
    ask(made.home, QUESTION, {"prompt": "What is 1 + 1?", "expected": "2", "match": "numeric"})
    return made


def test_a_version_is_compared_with_its_parent_on_the_same_rows(versions: Versions) -> None:
    """Training on its own file lowers the loss there, and the file before is scored too."""
    report = versions.evaluate()
    assert [file.job for file in report.scores.files] == versions.files
    assert report.comparison is not None
    assert report.comparison.parent == "v001"
    before = {file.job: file for file in report.comparison.scores.files}
    for file, change in zip(report.scores.files, report.comparison.changes, strict=True):
        earlier = before[file.job]
        assert (earlier.rows, earlier.tokens) == (file.rows, file.tokens)
        assert isinstance(file.loss, float)
        assert isinstance(earlier.loss, float)
        assert change.change == pytest.approx(file.loss - earlier.loss, abs=1e-5)
        assert change.low is not None
        assert change.high is not None
        assert change.low <= float(change.change) <= change.high
    assert float(report.comparison.changes[1].change) < 0
    assert report.divergence is not None
    assert float(report.divergence.nats) > 0
    assert report.scores.questions.total == report.comparison.scores.questions.total == 2
    assert not report.problem
    found = read_results(versions.home.path, report.results)
    assert found is not None
    assert found.parent_results is not None
    assert [row.id for row in found.parent_results.rows] == [row.id for row in found.results.rows]


def test_a_parent_is_not_measured_again(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured on the parent is not measured again, and has the same value."""
    first = versions.evaluate(version="v001", parent=None, evaluation="v001-attempt-0200")
    measured: list[int] = []
    score = score_rows

    def count(trained: Any, rows: Any, *others: Any) -> Any:
        measured.append(len(rows))
        return score(trained, rows, *others)

    monkeypatch.setattr(evaluating, "score_rows", count)
    second = versions.evaluate(parent_results=first.results)
    assert second.comparison is not None
    assert second.comparison.scores == first.scores
    assert measured == [0, sum(file.rows for file in second.scores.files)]


def test_the_same_evaluation_gives_the_same_numbers(versions: Versions) -> None:
    first, second = versions.evaluate(), versions.evaluate()
    assert (first.scores, first.comparison, first.divergence, first.suites_sha256) == (
        second.scores,
        second.comparison,
        second.divergence,
        second.suites_sha256,
    )


def test_without_its_parent_it_is_not_compared(versions: Versions) -> None:
    report = versions.evaluate(has_parent=False)
    assert report.comparison is None
    assert report.divergence is None
    assert report.scores.files


def test_a_bad_question_is_named_and_the_others_are_asked(versions: Versions) -> None:
    bad = versions.home.path / "evaluation" / "bad.jsonl"
    bad.write_text("{}\n")
    report = versions.evaluate()
    bad.unlink()
    assert report.problem.startswith("evaluation/bad.jsonl, line 1: ")
    assert report.scores.questions.total == 2


def test_nothing_to_evaluate_loads_no_model(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "load_model", None)
    channel = FakeChannel()
    evaluate_version(versions.home.path, versions.order(suites=Suites(questions_max=0)), channel)
    (report,) = channel.of(VersionEvaluated)
    assert report.scores.files == ()
    assert report.comparison is not None
    assert report.suites_sha256 == ""


def test_it_makes_way_for_a_pause(versions: Versions) -> None:
    channel = FakeChannel(yield_after=0)
    with pytest.raises(YieldRequested):
        evaluate_version(versions.home.path, versions.order(), channel)
    assert channel.of(VersionEvaluated) == []


def test_a_damaged_version_is_named(versions: Versions) -> None:
    weights = versions.home.path / "versions" / "v002" / "model.safetensors"
    kept = weights.rename(weights.with_suffix(".kept"))
    with pytest.raises(ArtifactBroken, match=r"model\.safetensors is missing"):
        evaluate_version(versions.home.path, versions.order(), FakeChannel())
    kept.rename(weights)
