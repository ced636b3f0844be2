"""Writes to an MLflow server (MLFLOW_TRACKING_URI), or to a database in the home.

A database of MLflow ignores a metric that it has, with the same time, step and value.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from cli.report.writer import Target, Writer
from projections.metrics import Group, Point

BATCH = 1_000
"""Metrics of one request: the limit of MLflow."""

TAG = "keepstep.run"


class MLflow(Writer):
    """A run in the experiment that has the name of the project."""

    def __init__(self, target: Target) -> None:
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{target.directory}/mlflow.db"
        self._client = MlflowClient(self._uri)
        found = self._client.get_experiment_by_name(target.project)
        experiment = found.experiment_id if found else self._client.create_experiment(target.project)
        runs = self._client.search_runs([experiment], f"tags.`{TAG}` = '{target.id}'", max_results=1)
        run = runs[0] if runs else self._client.create_run(experiment, tags={TAG: target.id}, run_name=target.run)
        self._run: str = run.info.run_id

    @property
    def place(self) -> str:
        """The command that shows the database, or the address of the server."""
        local = "MLFLOW_TRACKING_URI" not in os.environ
        return f"mlflow ui --backend-store-uri {self._uri}" if local else self._uri

    def write(self, group: Group, points: Sequence[Point]) -> None:
        """Send the points."""
        metrics = [
            Metric(f"{group}/{name}", value, round(point.at * 1000), point.global_step)
            for point in points
            for name, value in point.values.items()
        ]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self._run, metrics=metrics[start : start + BATCH])
