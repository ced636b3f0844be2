"""MLflow with its database in the home. `make test-reports` installs it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mlflow", reason="no mlflow: `make test-reports`")

from mlflow.tracking import MlflowClient

from cli.report.mlflow import MLflow
from cli.report.writer import Target
from projections.metrics import Point

pytestmark = pytest.mark.long


def test_points_are_in_one_run_and_a_repeated_one_is_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    target = Target(tmp_path, "p", "run", "some-id")
    MLflow(target).write("train", [Point(11, 1, 1000.0, {"loss": 2.0}), Point(12, 2, 1001.0, {"loss": 1.0})])
    MLflow(target).write("train", [Point(12, 2, 1001.0, {"loss": 1.0}), Point(14, 3, 1002.0, {"loss": 0.5})])
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("p")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(each.step, each.value) for each in history] == [(1, 2.0), (2, 1.0), (3, 0.5)]
