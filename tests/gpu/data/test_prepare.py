"""A data file to a plan."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from events.settings import DataSettings
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


def cached(home: Home) -> list[Path]:
    return sorted((home.path / "cache" / "tokens").iterdir())


def test_what_was_prepared_is_found_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next attempt, whatever ended this one; no row is read for it."""
    first = plan(home)
    monkeypatch.setattr("gpu.data.prepare.chunks_of", None)
    assert plan(home) == first
    (kept,) = cached(home)
    assert kept.name.startswith(hashlib.sha256(ROWS).hexdigest())


def test_tokens_that_are_damaged_are_made_anew(home: Home) -> None:
    first = plan(home)
    (kept,) = cached(home)
    data = bytearray((kept / "ids.i32").read_bytes())
    data[0] ^= 1
    (kept / "ids.i32").write_bytes(data)
    assert plan(home) == first
    assert (kept / "ids.i32").read_bytes() != data


def test_a_file_that_is_refused_leaves_nothing_in_the_cache(home: Home) -> None:
    with pytest.raises(RowRejected):
        plan(home, ROWS + b"[]\n")
    assert cached(home) == []


def test_bad_rows_are_left_out_where_that_is_asked_for(home: Home) -> None:
    """And counted, and kept; but no more of them than are allowed."""
    bad = b"[]\n{oops\n"
    how = settings(LORA, data=DataSettings(bad_rows="skip", bad_rows_max=0.2))
    home.cold().prepare(Prepare(attempt=1, job=home.add(bad + ROWS), settings=how))
    found = home.desk.of(Prepared)[0].plan
    assert (found.rows, found.skipped_rows) == (10, 2)
    (kept,) = cached(home)
    assert len((kept / "bad.jsonl").read_bytes().splitlines()) == 2
    with pytest.raises(RowRejected, match="3 of 13 rows cannot be learned from") as refused:
        home.cold().prepare(Prepare(attempt=1, job=home.add(bad + b"null\n" + ROWS), settings=how))
    assert (refused.value.problem, refused.value.line) == ("too_many_bad_rows", None)


def test_a_file_of_which_nothing_is_left_is_refused(home: Home) -> None:
    empty = b'{"prompt": "p", "completion": " "}\n'
    how = settings(LORA, data=DataSettings(bad_rows="skip", bad_rows_max=1.0))
    with pytest.raises(RowRejected, match="Nothing is left"):
        home.cold().prepare(Prepare(attempt=1, job=home.add(empty), settings=how))


def test_the_share_of_padding_is_told(home: Home) -> None:
    """Rows of three lengths, in micro-batches of two; packed, each step is one sequence or two of about a length."""
    assert 0 < plan(home).padding_share < 0.3
    how = settings(LORA, data=DataSettings(packing=True, max_length=128))
    home.cold().prepare(Prepare(attempt=1, job=home.add(ROWS), settings=how))
    assert 0 <= home.desk.of(Prepared)[0].plan.padding_share < 0.3
