"""`/metrics`, read by the parser of Prometheus' own client."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from cli.home.paths import Home
from cli.monitor import prometheus
from cli.status.report import read_current
from events.evaluation import QuestionScore
from projections.status import EvaluationView


def test_prometheus_reads_the_metrics_and_they_name_no_file(anyone: TestClient) -> None:
    text = anyone.get("/metrics").text
    found = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    assert found["keepstep_up"] == 0.0
    assert found["keepstep_committed_step"] == 46.0
    assert "jsonl" not in text


def test_evaluations_are_numbers_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss on held-out rows, the share of right questions, and versions that wait for a person."""
    view, alive = read_current(home)
    evaluation = EvaluationView(
        name="a.jsonl",
        at="",
        files=2,
        loss=1.5,
        questions=QuestionScore(total=4, right=3),
        problem="",
        pending=(),
        held=("v002",),
    )
    monkeypatch.setattr(prometheus, "read_current", lambda _: (replace(view, evaluation=evaluation), alive))
    text = prometheus.exposition(home).decode()
    found = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    assert found["keepstep_held_out_loss_nats"] == 1.5
    assert found["keepstep_questions_right_ratio"] == 0.75
    assert found["keepstep_versions_held"] == 1.0
    assert "jsonl" not in text
