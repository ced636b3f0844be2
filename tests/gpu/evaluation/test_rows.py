"""Held-out rows of trained files: chosen by content, encoded as for training, cached, and never trained ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from events.evaluation import HeldOutFile, Suites
from events.settings import DataSettings
from gpu.data.examine import quality
from gpu.data.format import rows as formats
from gpu.data.template.fingerprint import tokenizer_sha256
from gpu.evaluation import rows
from gpu.evaluation.rows import CACHE, Encoding, Row, RowTokens, held_out_rows
from gpu.model.limits import UNLIMITED
from tests.gpu.helpers import Home
from tests.harness.tiny_model import PLAIN_TEMPLATE, make_rows, make_tokenizer

HELD_OUT = DataSettings(holdout=0.3)


@pytest.fixture(scope="module")
def encoding() -> Encoding:
    tokenizer = make_tokenizer(PLAIN_TEMPLATE)
    return Encoding(tokenizer, tokenizer_sha256(tokenizer), UNLIMITED)


@pytest.fixture
def plain(tmp_path: Path) -> Home:
    return Home(tmp_path)


def suites(*jobs: str, **changes: object) -> Suites:
    return replace(Suites(files=tuple(HeldOutFile(job=job, data=HELD_OUT) for job in jobs)), **changes)


def read(home: Home, wanted: Suites, encoding: Encoding) -> list[Row]:
    found, problems = held_out_rows(home.path, wanted, encoding, lambda: None)
    assert problems == []
    return found


def test_only_rows_that_are_never_trained_are_taken(plain: Home, encoding: Encoding) -> None:
    job = plain.add(make_rows(40))
    path = plain.path / "data" / f"{job}.jsonl"
    held = [
        row for row in formats.read_rows(path, HELD_OUT) if quality.is_in_holdout(quality.hash_row(row).content, 0.3)
    ]
    assert 3 < len(held) < 40
    assert len(read(plain, suites(job, rows_per_file=100), encoding)) == len(held)


def test_a_larger_number_includes_a_smaller_one(plain: Home, encoding: Encoding) -> None:
    job = plain.add(make_rows(60))
    few, many = (read(plain, suites(job, rows_per_file=number), encoding) for number in (3, 6))
    assert few == many[:3]


def test_rows_of_two_files_share_a_limit_evenly(plain: Home, encoding: Encoding) -> None:
    first, second = plain.add(make_rows(60)), plain.add(make_rows(60, start=100))
    found = read(plain, suites(first, second, rows_max=9), encoding)
    assert [row.job for row in found] == [first] * 4 + [second] * 4
    assert read(plain, suites(first, second, rows_max=0), encoding) == []
    assert [row.job for row in read(plain, suites(first, second, rows_max=1), encoding)] == [second]


def test_a_file_is_read_once(plain: Home, encoding: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged cache is made again, and a change of the settings makes another one."""
    job = plain.add(make_rows(40))
    found = read(plain, suites(job), encoding)
    with monkeypatch.context() as patch:
        patch.setattr(rows, "_select", None)
        assert read(plain, suites(job), encoding) == found
    (cache,) = (plain.path / CACHE).iterdir()
    digest, _, data = cache.read_bytes().partition(b"\n")
    cache.write_bytes(digest + b"\n" + data.replace(b"1", b"2"))
    assert read(plain, suites(job), encoding) == found
    read(plain, suites(job, rows_per_file=2), encoding)
    assert len(list((plain.path / CACHE).iterdir())) == 1


def test_the_same_row_has_the_same_id_in_each_file(plain: Home, encoding: Encoding) -> None:
    first, second = plain.add(make_rows(40)), plain.add(make_rows(41))
    found = read(plain, suites(first, second, rows_per_file=100), encoding)
    ids = [{row.id for row in found if row.job == job} for job in (first, second)]
    assert ids[0] <= ids[1]


def test_a_file_that_is_gone_is_a_problem(plain: Home, encoding: Encoding) -> None:
    found, problems = held_out_rows(plain.path, suites("ab" * 32), encoding, lambda: None)
    assert found == []
    assert problems == ["the held-out rows of abababababab cannot be read: No such file or directory"]


def test_rows_in_memory_are_like_stored_ones() -> None:
    tokens = RowTokens([Row("x", "j", [5, 6, 7], [0, 1, 1]), Row("y", "j", [8, 9], [0, 1])])
    assert (len(tokens), tokens.span(1), tokens.length(0), tokens.trained_in(0)) == (2, (3, 5), 3, 2)
