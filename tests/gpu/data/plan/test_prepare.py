"""A data file is prepared: tokens, batch plan, report."""

from __future__ import annotations

import gzip
import hashlib
from array import array
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.messages import Heartbeat, Prepare, Prepared
from events.settings import DataSettings, Sources
from gpu.errors import DataChanged, RowRejected, YieldRequested
from tests.gpu.helpers import LORA, Home, settings
from tests.harness.tiny_model import make_rows

ROWS = make_rows(10)


def plan(home: Home, data: bytes = ROWS, **channel: Any) -> Any:
    home.new_session(**channel).prepare(Prepare(attempt=1, job=home.add(data), settings=settings(LORA)))
    return home.channel.of(Prepared)[0].plan


def test_the_plan_counts_what_is_in_the_file(home: Home) -> None:
    found = plan(home)
    assert (found.rows, found.epochs, found.steps_per_epoch, found.steps_total) == (10, 2, 3, 6)
    assert found.truncated_rows == 0
    assert 0 < found.trained_tokens < found.tokens


@pytest.mark.parametrize("data", [ROWS, ROWS.removesuffix(b"\n")])
def test_progress_is_out_of_the_rows_of_the_file(home: Home, data: bytes) -> None:
    """Whether or not its last line ends."""
    plan(home, data)
    assert {beat.total for beat in home.channel.of(Heartbeat) if beat.phase == "prepare"} == {10}


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
def test_a_data_file_that_is_not_what_was_accepted_is_not_trained(home: Home, change: str | None) -> None:
    path = home.path / "data" / f"{home.add(ROWS)}.jsonl"
    path.write_text(change) if change else path.unlink()
    with pytest.raises(DataChanged):
        home.new_session().prepare(Prepare(attempt=1, job=path.stem, settings=settings(LORA)))


def test_preparation_stops_when_asked_to(home: Home) -> None:
    with pytest.raises(YieldRequested):
        plan(home, yield_after=0)


def test_a_large_file_is_not_read_to_its_end_when_preparation_has_to_stop(home: Home) -> None:
    """Its SHA-256 is not asked: whether it has changed is found the next time."""
    session, job = home.new_session(yield_after=0), home.add(ROWS)
    (home.path / "data" / f"{job}.jsonl").write_text("other bytes")
    with pytest.raises(YieldRequested):
        session.prepare(Prepare(attempt=1, job=job, settings=settings(LORA)))


@pytest.mark.parametrize(("known", "data"), [(False, ROWS + b"no row\n"), (True, ROWS)])
def test_preparation_stops_after_reading_the_file(
    home: Home, monkeypatch: pytest.MonkeyPatch, known: bool, data: bytes
) -> None:
    """Before all rows are encoded and a bad one is found, or while tokens of an earlier preparation are verified."""
    if known:
        plan(home)
    session, job = home.new_session(), home.add(data)

    def beats() -> list[Heartbeat]:
        return [beat for beat in home.channel.of(Heartbeat) if beat.phase == "prepare"]

    monkeypatch.setattr(home.channel, "yield_requested", lambda: bool(beats()))
    with pytest.raises(YieldRequested):
        session.prepare(Prepare(attempt=1, job=job, settings=settings(LORA)))
    assert {beat.done for beat in beats()} == {0}


def test_a_bad_row_anywhere_refuses_the_file(home: Home) -> None:
    with pytest.raises(RowRejected) as refused:
        plan(home, ROWS + b"[]\n")
    assert refused.value.line == 11


def cached(home: Home) -> list[Path]:
    return sorted((home.path / "cache" / "tokens").iterdir())


def test_what_was_prepared_is_found_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt finds the tokens in the cache and reads no row."""
    first = plan(home)
    monkeypatch.setattr("gpu.data.plan.prepare.Chunks", None)
    assert plan(home) == first
    (kept,) = cached(home)
    assert kept.name.startswith(hashlib.sha256(ROWS).hexdigest())


def test_damaged_tokens_are_made_again(home: Home) -> None:
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
    """Skipped rows are counted and saved, and too many of them refuse the file."""
    bad = b"7\n{oops\n"
    how = settings(LORA, data=DataSettings(bad_rows="skip", bad_rows_max=0.2))
    home.new_session().prepare(Prepare(attempt=1, job=home.add(bad + ROWS), settings=how))
    found = home.channel.of(Prepared)[0].plan
    assert (found.rows, found.skipped_rows) == (10, 2)
    skipped = home.path / "reports" / f"{hashlib.sha256(bad + ROWS).hexdigest()}.skipped.jsonl"
    assert skipped.read_bytes() == bad
    with pytest.raises(RowRejected, match=r"23\.1% of the rows are bad") as refused:
        home.new_session().prepare(Prepare(attempt=1, job=home.add(bad + b"null\n" + ROWS), settings=how))
    assert (refused.value.problem, refused.value.line) == ("too_many_bad_rows", None)


def test_a_file_of_which_nothing_is_left_is_refused(home: Home) -> None:
    empty = b'{"prompt": "p", "completion": " "}\n'
    how = settings(LORA, data=DataSettings(bad_rows="skip", bad_rows_max=1.0))
    with pytest.raises(RowRejected, match="of the rows are bad"):
        home.new_session().prepare(Prepare(attempt=1, job=home.add(empty), settings=how))


def test_the_padding_share_is_reported(home: Home) -> None:
    """Rows of three lengths, in micro-batches of two; packed, each step is one sequence or two of about a length."""
    assert 0 < plan(home).padding_share < 0.3
    how = settings(LORA, data=DataSettings(packing=True, max_length=128))
    home.new_session().prepare(Prepare(attempt=1, job=home.add(ROWS), settings=how))
    assert 0 <= home.channel.of(Prepared)[0].plan.padding_share < 0.3


def test_a_refusal_names_the_first_row_and_how_many_more_there_are(home: Home) -> None:
    with pytest.raises(RowRejected) as refused:
        plan(home, ROWS + b'{"prompt": "p", oops}\n{"prompt": NaN, "completion": 1}\n{oops\n')
    said = refused.value.message
    assert said.startswith("Row 11 (line 11, column 17): ")
    assert "(and 1 more)" in said
    assert refused.value.problem == "broken_json"


def test_every_preparation_leaves_a_report(home: Home) -> None:
    """A refused file has a report too. The plan has the warnings of the report."""
    found = plan(home, ROWS + ROWS[:200].splitlines(keepends=True)[0])
    assert found.warnings == ("duplicate_rows",)
    for data, verdict in ((ROWS + ROWS[:200].splitlines(keepends=True)[0], "good"), (ROWS + b"[]", "refused")):
        if verdict == "refused":
            with pytest.raises(RowRejected):
                plan(home, data)
        report = msgspec.json.decode((home.path / "reports" / f"{hashlib.sha256(data).hexdigest()}.json").read_bytes())
        assert (report["verdict"], report["rows"]) == (verdict, 11)


def test_rows_of_the_validation_set_are_not_trained_on(home: Home) -> None:
    """This holds for any file; without a change the tokens are found in the cache."""
    held = ROWS.splitlines(keepends=True)[3]
    sha256 = hashlib.sha256(held).hexdigest()
    (home.path / "validation").mkdir()
    (home.path / "validation" / f"{sha256}.jsonl").write_bytes(held)
    how = msgspec.structs.replace(settings(LORA), sources=Sources(validation_sha256=sha256))
    for _ in range(2):
        home.new_session().prepare(Prepare(attempt=1, job=home.add(ROWS), settings=how))
        found = home.channel.of(Prepared)[-1].plan
        assert (found.rows, found.held_out_rows, found.warnings) == (9, 1, ("in_validation",))
    assert all(line != 4 for line in prepared_lines(home))
    (home.path / "validation" / f"{sha256}.jsonl").unlink()
    with pytest.raises(DataChanged, match="validation set"):
        home.new_session().prepare(Prepare(attempt=1, job=home.add(ROWS + b"\n"), settings=how))


def prepared_lines(home: Home) -> list[int]:
    (kept,) = cached(home)
    return list(array("q", (kept / "lines.i64").read_bytes()))


def test_rows_of_earlier_files_are_warned_of(home: Home) -> None:
    plan(home)
    assert "trained_before" in plan(home, ROWS + make_rows(2, 50)).warnings
    assert "trained_before" not in plan(home, make_rows(2, 70)).warnings
