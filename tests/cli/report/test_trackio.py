"""The rows in the database of Trackio."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trackio")

from trackio.sqlite_storage import SQLiteStorage

from cli.report.trackio import Trackio
from cli.report.writer import Target
from projections.metrics import Group, Point

PROJECT = "tests"


@pytest.fixture(autouse=True)
def _database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path)


def again(identity: str = "id") -> Trackio:
    """A new process."""
    return Trackio(Target(Path(), PROJECT, f"run-{identity}", identity))


def point(number: int, loss: float, seq: int = 0) -> Point:
    return Point(seq or number, number, 1000.0 + number, {"loss": loss})


def shown(run: str = "run-id", group: Group = "train") -> list[tuple[int, float]]:
    rows = SQLiteStorage.get_logs(PROJECT, run)
    return [(row["step"], row[f"{group}/loss"]) for row in rows if f"{group}/loss" in row]


def test_points_are_in_the_run_of_the_home() -> None:
    again().write("train", [point(1, 2.0), point(2, 1.0)])
    again("other").write("train", [point(1, 7.0)])
    assert shown() == [(1, 2.0), (2, 1.0)]
    assert shown("run-other") == [(1, 7.0)]
    assert again().last_step("train") == 2
    assert again().last_step("validation") == -1


def test_a_point_that_is_sent_again_is_stored_once() -> None:
    for _ in range(2):
        again().write("train", [point(1, 2.0), point(2, 1.0)])
    assert shown() == [(1, 2.0), (2, 1.0)]


def test_a_cut_removes_later_steps_of_one_group() -> None:
    again().write("train", [point(number, 9.0) for number in range(1, 6)])
    again().write("validation", [point(5, 0.5, seq=6)])
    again().cut("train", 3)
    again().write("train", [point(3, 1.0, seq=7)])
    assert shown() == [(1, 9.0), (2, 9.0), (3, 1.0)]
    assert shown(group="validation") == [(5, 0.5)]
