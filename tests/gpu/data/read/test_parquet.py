"""Parquet is read if pyarrow is installed, and refused otherwise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from pyarrow import parquet

from gpu.data.problems import Problem
from gpu.data.read import parquet as module
from gpu.data.read.record import Record
from gpu.data.read.source import read_records

TURNS = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "weight": 1}]


def write(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    file = path / "0a1b2c.jsonl"
    parquet.write_table(arrow.Table.from_pylist(rows), file, **options)
    return file


def test_a_record_is_a_row_and_has_its_number(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number}", "completion": "c"} for number in range(10)]
    found = list(read_records(write(tmp_path, rows, row_group_size=3)))
    assert found == [Record(number, b"", fields=row) for number, row in enumerate(rows, start=1)]


def test_keys_that_only_other_rows_have_are_not_there(tmp_path: Path) -> None:
    """A column has one type: what one message has, all have, as null."""
    file = write(tmp_path, [{"messages": TURNS, "tools": None}])
    (found,) = read_records(file)
    assert isinstance(found, Record)
    assert found.fields == {"messages": TURNS}


def test_a_batch_is_so_many_rows_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, [{"text": str(number) * 1000} for number in range(100)], use_dictionary=False)
    metadata = parquet.read_metadata(file)
    assert module._batch_rows(metadata) == module.BATCH_ROWS_MAX
    monkeypatch.setattr(module, "BATCH_BYTES", 10_000)
    assert 1 <= module._batch_rows(metadata) <= 10
    assert sum(1 for _ in read_records(file)) == 100


def test_without_pyarrow_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, [{"text": "t"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (problem,) = read_records(file)
    assert isinstance(problem, Problem)
    assert problem.name == "parquet_needs_pyarrow"
    assert "pip install 'keepstep[parquet]'" in problem.message


@pytest.mark.parametrize("damage", ["cut", "nothing else", "middle"])
def test_a_damaged_file_is_reported(tmp_path: Path, damage: str) -> None:
    file = write(tmp_path, [{"text": str(number) * 100} for number in range(1000)])
    data = bytearray(file.read_bytes())
    if damage == "middle":
        data[200:-600] = bytes(len(data) - 800)
    file.write_bytes({"cut": data[:-20], "nothing else": b"PAR1", "middle": data}[damage])
    *_, problem = read_records(file)
    assert isinstance(problem, Problem)
    assert (problem.name, problem.line) == ("broken_parquet", None)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "twice"
    parquet.write_table(arrow.table([["a"], ["b"]], names=["text", "text"]), file)
    (problem,) = read_records(file)
    assert isinstance(problem, Problem)
    assert "two columns are called 'text'" in problem.what


def decompression_bomb(tmp_path: Path, table: arrow.Table) -> tuple[int, Problem, int]:
    """Return how many rows were read before the file was refused, why, and the peak memory."""
    file = tmp_path / "0a1b2c.jsonl"
    parquet.write_table(table, file, compression="zstd")
    arrow.default_memory_pool().release_unused()
    before = arrow.default_memory_pool().max_memory()
    for rows, found in enumerate(read_records(file)):
        if isinstance(found, Problem):
            return rows, found, arrow.default_memory_pool().max_memory() - before
    raise AssertionError("it was read to its end")


@pytest.mark.parametrize("nested", [False, True])
def test_a_dictionary_entry_that_is_repeated_for_ever_is_reported(tmp_path: Path, nested: bool) -> None:
    """100 GB in some kilobytes are refused with little memory."""
    numbers = arrow.array([0] * 100_000, arrow.int32())
    column = arrow.DictionaryArray.from_arrays(numbers, arrow.array(["x" * 1_000_000]))
    if nested:
        ends = arrow.array(range(0, 100_001, 10), arrow.int32())
        column = arrow.ListArray.from_arrays(ends, column)
    rows, problem, took_bytes = decompression_bomb(tmp_path, arrow.table({"text": column}))
    assert problem.name == "swollen_file"
    assert rows < 200
    assert took_bytes < 2**28


def test_a_row_that_would_grow_beyond_measure_is_reported(tmp_path: Path) -> None:
    """A single row is refused before its texts are expanded."""
    numbers = arrow.array([0] * 1_000_000, arrow.int32())
    texts = arrow.DictionaryArray.from_arrays(numbers, arrow.array(["x" * 10_000]))
    column = arrow.ListArray.from_arrays(arrow.array([0, 1_000_000], arrow.int32()), texts)
    rows, problem, took_bytes = decompression_bomb(tmp_path, arrow.table({"text": column}))
    assert (rows, problem.name, problem.line) == (0, "row_too_long", 1)
    assert took_bytes < 2**28


def test_a_page_that_would_grow_beyond_measure_is_reported(tmp_path: Path) -> None:
    """The page is refused before it is unpacked."""
    rows, problem, took_bytes = decompression_bomb(tmp_path, arrow.table({"text": ["x" * 100_000_000]}))
    assert (rows, problem.name) == (0, "swollen_file")
    assert took_bytes < 2**24


def test_texts_that_are_repeated_within_reason_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system prompt is such a text; reading it as dictionary indices gives the same rows."""
    monkeypatch.setattr(module, "GROUP_MAX_BYTES", 1000)
    monkeypatch.setattr(module, "BATCH_BYTES", 20_000)
    rows = [
        {"messages": [{"role": "system", "content": "s" * 9000}, {"role": "user", "content": str(number)}]}
        for number in range(500)
    ]
    found = list(read_records(write(tmp_path, rows)))
    assert found == [Record(number, b"", fields=row) for number, row in enumerate(rows, start=1)]
