"""A job is evaluated on rows that it never trains, on the same ones each time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from events.messages import Prepare, Prepared
from events.settings import DataSettings, EvaluationSettings, JobSettings, Sources
from gpu.data.examine.quality import hash_row
from gpu.data.plan import held_out
from gpu.data.plan.held_out import read_validation_set, validation_path
from gpu.data.plan.store import HELD_OUT, Tokens
from gpu.errors import DataChanged, YieldRequested
from tests.gpu.data.reading import good_rows
from tests.gpu.helpers import LORA, FakeChannel, Home, settings
from tests.harness.tiny_model import make_rows

ROWS = make_rows(60)
SET = make_rows(30, 1000)


def kept(home: Home, sha256: str, data: bytes) -> None:
    (home.path / "validation").mkdir(exist_ok=True)
    (home.path / "validation" / f"{sha256}.jsonl").write_bytes(data)


def how(home: Home, *, share: float = 0.0, rows: int = 1000, validation: bytes = b"", **data: Any) -> JobSettings:
    sha256 = ""
    if validation:
        sha256 = hashlib.sha256(validation).hexdigest()
        kept(home, sha256, validation)
    return replace(
        settings(LORA, data=DataSettings(holdout=share, **data)),
        sources=Sources(validation_sha256=sha256),
        evaluation=EvaluationSettings(rows=rows),
    )


def evaluated(home: Home, wanted: JobSettings, data: bytes = ROWS) -> list[list[int]]:
    """Prepare through the worker; return the tokens of each evaluated row, in order."""
    session = home.new_session()
    session.prepare(Prepare(attempt=1, job=home.add(data), settings=wanted))
    tokens = session._prepared[1].validation  # what training is given
    assert tokens is None or isinstance(tokens, Tokens)
    if tokens is None:
        return []
    spans = [tokens.span(row) for row in range(len(tokens))]
    return [tokens.ids[start:end].tolist() for start, end in spans]


def trained(home: Home) -> int:
    return int(home.channel.of(Prepared)[-1].plan.rows)


def test_rows_that_are_held_out_are_evaluated_and_not_trained(home: Home) -> None:
    """Each row of the file is either trained or evaluated."""
    rows = evaluated(home, how(home, share=0.25))
    assert 5 <= len(rows) <= 25
    assert trained(home) + len(rows) == 60


def test_so_are_those_of_the_validation_set(home: Home) -> None:
    """The whole set is evaluated, whatever the file."""
    rows = evaluated(home, how(home, validation=SET))
    assert len(rows) == 30
    assert trained(home) == 60


def test_a_row_that_is_in_both_counts_once(home: Home) -> None:
    """The set is a part of the file, and half of all rows are held out."""
    part = b"".join(ROWS.splitlines(keepends=True)[:20])
    rows = evaluated(home, how(home, share=0.5, validation=part))
    assert trained(home) + len(rows) == 60
    assert len({tuple(row) for row in rows}) == len(rows)


def test_of_many_some_are_taken_and_a_larger_number_holds_a_smaller_one(home: Home) -> None:
    """Their content decides: another order of the lines changes nothing."""
    few, more = (evaluated(home, how(home, validation=SET, rows=number)) for number in (4, 12))
    assert (len(few), len(more)) == (4, 12)
    assert {tuple(row) for row in few} < {tuple(row) for row in more}
    turned = b"".join(reversed(SET.splitlines(keepends=True)))
    assert evaluated(home, how(home, validation=turned, rows=4)) == few


def test_where_nothing_is_held_out_or_wanted_there_is_nothing(home: Home) -> None:
    """No file of evaluated rows exists then."""
    assert evaluated(home, how(home)) == []
    assert evaluated(home, how(home, validation=SET, rows=0)) == []
    (cache,) = (home.path / "cache" / "tokens").iterdir()
    assert not list(cache.glob(f"{HELD_OUT}*"))


def test_they_are_found_again_with_the_rest(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt does not encode them again."""
    wanted = how(home, share=0.25)
    before = evaluated(home, wanted)

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("gpu.data.plan.prepare.select_evaluated", never)
    assert evaluated(home, wanted) == before


def test_evaluated_rows_do_not_change_what_is_trained(home: Home) -> None:
    """Neither the trained rows nor their order change."""
    fingerprints = set()
    for rows in (0, 3, 1000):
        evaluated(home, how(home, share=0.25, rows=rows))
        fingerprints.add(home.channel.of(Prepared)[-1].plan.batches_sha256)
    assert len(fingerprints) == 1


def test_bad_rows_of_the_set_are_passed_over(home: Home) -> None:
    """A validation set was never checked as a data file is."""
    rows = evaluated(home, how(home, validation=SET + b'{"prompt": 1}\n{"broken\n'))
    assert len(rows) == 30


def test_a_set_that_is_gone_is_named(home: Home) -> None:
    wanted = how(home, validation=SET)
    for path in (home.path / "validation").iterdir():
        path.unlink()
    with pytest.raises(DataChanged, match=r"validation set .* cannot be read"):
        evaluated(home, wanted)


def test_a_validation_set_consists_of_its_good_rows(tmp_path: Path) -> None:
    path, good = tmp_path / "set.jsonl", tmp_path / "good.jsonl"
    good.write_bytes(make_rows(3))
    path.write_bytes(make_rows(3) + b"{oops\n")
    found = read_validation_set(path, DataSettings())
    assert found.content.tolist() == sorted(hash_row(row).content for row in good_rows(good, DataSettings()))
    assert [problem.name for problem in found.problems] == ["broken_json"]
    assert read_validation_set(None, DataSettings()).content.tolist() == []
    with pytest.raises(DataChanged, match="Restore the file"):
        read_validation_set(tmp_path / "nowhere", DataSettings())
    assert validation_path(tmp_path, "") is None


def test_selection_stops_when_the_daemon_asks(home: Home, tmp_path: Path) -> None:
    """The request is noticed between two rows."""
    path = tmp_path / "set.jsonl"
    path.write_bytes(SET)

    def asked() -> None:
        raise YieldRequested("now")

    with pytest.raises(YieldRequested):
        list(held_out.select_evaluated(path, path, how(home), held_out.Hashes((0,)), None, asked))  # type: ignore[attr-defined]
    assert FakeChannel().yield_requested() is False


def test_a_set_of_which_nothing_can_be_evaluated_is_reported(home: Home) -> None:
    """Without a warning the user would wait for a loss that never comes."""
    long = b"".join(b'{"prompt": "%d", "completion": "%s"}\n' % (row, b"far too long " * 99) for row in range(4))
    for nothing, more in ((b'{"prompt": 1}\n{"broken\n', ["validation_damaged"]), (b"\n", []), (long, [])):
        assert evaluated(home, how(home, validation=nothing, long="drop")) == []
        assert home.channel.of(Prepared)[-1].plan.warnings == (*more, "nothing_evaluated")
    for wanted in (how(home, validation=SET), how(home, rows=0, validation=b"\n"), how(home)):
        evaluated(home, wanted)
        assert home.channel.of(Prepared)[-1].plan.warnings == ()
