"""W&B in its offline mode. `make test-reports` installs it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("wandb", reason="no wandb: `make test-reports`")

from cli.report.wandb import WeightsAndBiases
from cli.report.writer import Target
from projections.metrics import Point

pytestmark = pytest.mark.long


def test_points_are_written_for_a_later_upload_and_no_secret_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    writer = WeightsAndBiases(Target(tmp_path, "p", "run", "some-id"))
    writer.write("train", [Point(11, 1, 1000.0, {"loss": 2.0}), Point(12, 2, 1001.0, {"loss": 1.0})])
    writer.write("train", [Point(11, 1, 1000.0, {"loss": 77.0})])
    writer.write("validation", [Point(13, 2, 1002.0, {"loss": 1.5, "gap": 0.5})])
    assert dict(writer._run.summary)["train/loss"] == 1.0, "W&B ignores a step that it has"
    assert dict(writer._run.summary)["validation/gap"] == 0.5
    writer.close()
    assert writer.place.startswith("wandb sync ")
    (found,) = tmp_path.glob("wandb/offline-run-*/run-some-id.wandb")
    assert found.stat().st_size > 0
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"0123456789" * 4 not in path.read_bytes(), path
