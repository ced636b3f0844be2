"""JSON arrays are read an element at a time."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu.data.read import record as limits
from gpu.data.read.array import read_array
from gpu.data.read.record import Record, UnreadableFile

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\[]{},:é\n😀'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='a"]}'), inner, max_size=4),
    max_leaves=12,
)


def take(data: bytes, size: int = 2**18) -> list[Record]:
    return list(read_array(iter([data[at : at + size] for at in range(0, len(data), size)])))


@settings(deadline=None, database=None)
@given(
    values=st.lists(VALUES, max_size=6),
    indent=st.sampled_from([None, 0, 2]),
    plain=st.booleans(),
    size=st.integers(1, 50),
)
def test_the_elements_are_those_of_the_array_and_stand_where_they_are_said_to(
    values: list[Any], indent: int | None, plain: bool, size: int
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=plain)
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(limits, "CHUNK_BYTES", size)
        found = take(text.encode(), size)
    assert [json.loads(record.raw) for record in found] == values
    lines = text.split("\n")
    for record in found:
        first = record.raw.decode().split("\n")[0]
        assert lines[record.line - 1][record.column - 1 :].startswith(first)


def test_elements_of_one_line_have_columns_in_characters() -> None:
    assert [(record.line, record.column) for record in take('[{"é": "😀"}, {},\n  {}]'.encode())] == [
        (1, 2),
        (1, 14),
        (2, 3),
    ]


@pytest.mark.parametrize(
    ("data", "raw"),
    [
        (b'[{"a": oops},\n{"a": 1}]', [b'{"a": oops}', b'{"a": 1}']),
        (b'[nul, {,}, "a\\"]", tru\n, -]', [b"nul", b"{,}", b'"a\\"]"', b"tru", b"-"]),
        (b'[{"a": [1}], 2]', [b'{"a": [1}]', b"2"]),
        (b'[{"a": 1,\n"b": "no end,\n"c": 2},\n{"a": 1}]', [b'{"a": 1,\n"b": "no end,\n"c": 2}', b'{"a": 1}']),
    ],
)
def test_a_broken_element_is_an_element_and_the_next_one_is_found(data: bytes, raw: list[bytes]) -> None:
    assert [record.raw for record in take(data)] == raw


@pytest.mark.parametrize(
    ("data", "name", "line", "column", "elements_before"),
    [
        (b"[", "truncated_file", None, None, 0),
        (b"[1", "truncated_file", None, None, 0),
        (b"[1,", "truncated_file", None, None, 1),
        (b"[1, 2\n", "truncated_file", None, None, 2),
        (b'[{"a": 1}, {"a": [', "truncated_file", None, None, 1),
        (b'[{"a": 1}, {"a": "x', "truncated_file", None, None, 1),
        (b"[,1]", "broken_array", 1, 2, 0),
        (b"[1,\n,2]", "broken_array", 2, 1, 1),
        (b"[1,\n]", "broken_array", 2, 1, 1),
        ('[{"é": 1} {"b": 2}]'.encode(), "broken_array", 1, 11, 1),
        (b"[1]\n[2]", "broken_array", 2, 1, 1),
        (b"[1]]", "broken_array", 1, 4, 1),
        (b"[] {}", "broken_array", 1, 4, 0),
    ],
)
def test_a_broken_array_is_reported_where_it_breaks(
    data: bytes, name: str, line: int | None, column: int | None, elements_before: int
) -> None:
    found = read_array(iter([data]))
    assert [next(found).line for _ in range(elements_before)] == [1] * elements_before
    with pytest.raises(UnreadableFile) as stopped:
        next(found)
    problem = stopped.value.problem
    assert (problem.name, problem.line, problem.column) == (name, line, column)


def test_memory_is_that_of_an_element_and_not_of_the_array() -> None:
    row = b'{"prompt": "' + b"p" * 1000 + b'"}'

    def chunks() -> Any:
        yield b"["
        for _ in range(20_000):
            yield row + b",\n"
        yield row + b"]"

    tracemalloc.start()
    try:
        assert sum(1 for _ in read_array(chunks())) == 20_001
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.timeout(20)
def test_brackets_without_end_are_reported_at_once() -> None:
    """A file of nothing else would take minutes."""
    with pytest.raises(UnreadableFile) as stopped:
        take(b"[" * 30_000_000)
    assert stopped.value.problem.name == "broken_array"
