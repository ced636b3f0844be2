"""Metrics that follow a journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.home.metrics_reader import MetricsReader
from cli.home.paths import Home
from journal import PositionLost, follow_in_batches
from tests.harness.metrics_home import add_steps, metrics_home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home without steps."""
    return metrics_home(tmp_path)


def steps(reader: MetricsReader) -> list[int]:
    return [point.global_step for point in reader.metrics.points("train")]


def test_each_catch_up_reads_only_the_new_records(home: Home) -> None:
    reader = MetricsReader(home, records_kept=2)
    add_steps(home, 1, 3)
    assert reader.catch_up()
    seq = reader.position.seq
    add_steps(home, 4, 4)
    assert reader.catch_up()
    assert steps(reader) == [1, 2, 3, 4]
    assert [record.seq for record in reader.records] == [seq, seq + 1]


def test_another_journal_in_the_same_place_is_read_from_its_start(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = MetricsReader(home)
    add_steps(home, 1, 3)
    reader.catch_up()
    calls: list[object] = []

    def once_lost(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise PositionLost(1, "")
        return follow_in_batches(*arguments, **options)

    monkeypatch.setattr("cli.home.metrics_reader.follow_in_batches", once_lost)
    assert not reader.catch_up()
    assert steps(reader) == [1, 2, 3]
