"""A data file to a plan."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from events.worker import Prepare, Prepared
from gpu.errors import DataChanged, RowRejected, YieldAsked
from tests.fakes.tiny_model import make_rows
from tests.gpu.helpers import LORA, Home, settings

ROWS = make_rows(10)


def plan(home: Home, data: bytes = ROWS, **desk: Any) -> Any:
    home.cold(**desk).prepare(Prepare(attempt=1, job=home.add(data), settings=settings(LORA)))
    return home.desk.of(Prepared)[0].plan


def test_the_plan_counts_what_is_in_the_file(home: Home) -> None:
    found = plan(home)
    assert (found.rows, found.epochs, found.steps_per_epoch, found.steps_total) == (10, 2, 3, 6)
    assert found.truncated_rows == 0
    assert 0 < found.trained_tokens < found.tokens


def test_the_plan_is_the_same_each_time_and_another_for_other_data(home: Home) -> None:
    assert plan(home) == plan(home)
    other = plan(home, ROWS + b"\n")
    assert other.rows == 10
    assert other.batches_sha256 != plan(home).batches_sha256


def test_the_plan_counts_the_same_whatever_the_file_is_packed_in(home: Home) -> None:
    array = b"[" + b",".join(ROWS.splitlines()) + b"]"
    plans = [plan(home, data) for data in (ROWS, gzip.compress(ROWS), array)]
    assert len({(found.rows, found.tokens, found.trained_tokens) for found in plans}) == 1
    assert len({found.batches_sha256 for found in plans}) == 3


@pytest.mark.parametrize("change", ["other bytes", None])
def test_a_data_file_that_is_not_what_was_accepted_is_not_learned(home: Home, change: str | None) -> None:
    path = home.path / "data" / f"{home.add(ROWS)}.jsonl"
    path.write_text(change) if change else path.unlink()
    with pytest.raises(DataChanged):
        home.cold().prepare(Prepare(attempt=1, job=path.stem, settings=settings(LORA)))


def test_preparation_stops_when_asked_to(home: Home) -> None:
    with pytest.raises(YieldAsked):
        plan(home, yield_after=0)


def test_a_bad_row_anywhere_refuses_the_file(home: Home) -> None:
    with pytest.raises(RowRejected) as refused:
        plan(home, ROWS + b"[]\n")
    assert refused.value.line == 11
