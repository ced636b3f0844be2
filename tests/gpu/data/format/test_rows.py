"""Data files are parsed into rows, and bad rows are reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from pyarrow import parquet

from events.settings import DataSettings
from gpu.data.format.example import BadRow, Example, Row, Text
from gpu.data.format.rows import find_format, parse_record, read_rows
from gpu.data.problems import TOLERATED, Problem
from gpu.data.read.record import Record
from gpu.data.read.source import read_records
from tests.gpu.data.reading import gzipped, parse

GOOD = b'{"prompt": "p", "completion": "c"}\n'
TURNS = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
Take = Callable[..., list[Row | BadRow | Problem]]


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """Return a function that reads a file with these bytes, or these rows."""

    def taken(data: bytes | list[Any], **settings: Any) -> list[Row | BadRow | Problem]:
        file = tmp_path / "0a1b2c.jsonl"
        file.write_bytes(
            data if isinstance(data, bytes) else b"".join(json.dumps(row).encode() + b"\n" for row in data)
        )
        return list(read_rows(file, DataSettings(**settings)))

    return taken


def pair(line: int) -> Example:
    messages = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]
    return Example(line, messages, (False, True), plain=True)


def test_rows_come_in_the_order_of_the_file_with_their_lines(take: Take) -> None:
    assert take(b"\xef\xbb\xbf" + GOOD + b"\n  \r\n" + GOOD.strip() + b"\r\n") == [pair(1), pair(4)]


@pytest.mark.parametrize(
    ("data", "problem", "line", "column", "says"),
    [
        (b"", "empty_file", None, None, "no rows"),
        (b" \n\n", "empty_file", None, None, "no rows"),
        (b"[]", "empty_file", None, None, "no rows"),
        (gzipped(b""), "empty_file", None, None, "no rows"),
        (b"\x1f\x8b\x08zipped", "truncated_file", None, None, "incomplete"),
        (b"PK\x03\x04\0\0", "unknown_container", None, None, "zip"),
        ('{"a": 1}'.encode("utf-16"), "wrong_encoding", None, None, "UTF-16"),
        (b'[{"prompt": "p", "completion": "c"}', "truncated_file", None, None, "not closed"),
        (b'[{"prompt": "p", "completion": "c"}\n{}]', "broken_array", 2, 1, "a comma is missing"),
    ],
)
def test_a_file_as_a_whole_is_refused_by_its_last_word(
    take: Take, data: bytes, problem: str, line: int | None, column: int | None, says: str
) -> None:
    *_, found = take(data)
    assert isinstance(found, Problem)
    assert (found.name, found.line, found.column) == (problem, line, column)
    assert says in found.message


@pytest.mark.parametrize(
    ("raw", "problem", "line", "column", "says"),
    [
        (b"\x00\x01", "nul_bytes", 2, 1, "at byte 1"),
        ('{"é": "\0"}'.encode(), "nul_bytes", 2, 8, "at byte 9"),
        ('{"é": "'.encode() + b'\xe9"}', "not_utf8", 2, 8, "byte 9 of the row (0xe9)"),
        (b'{"prompt": "p", oops}', "broken_json", 2, 17, "broken JSON"),
        (b'{"prompt": "p"', "broken_json", 2, 15, "jq -c"),
        ('{"é": oops}'.encode(), "broken_json", 2, 7, "broken JSON"),
        (b'{"prompt": "p", "prompt": "q"}', "duplicate_key", 2, 17, "twice"),
        (b'{"prompt": NaN}', "not_finite", 2, 12, "NaN"),
        (b'{"prompt": "\\ud83d"}', "half_character", 2, 13, "half of a surrogate pair"),
        (b'{"prompt": ' + b"[" * 100_000, "too_deep", 2, 111, "100 levels deep"),
        (b'["a"]', "data_type", 2, None, "a list, not a JSON object"),
        (b"null", "data_type", 2, None, "null"),
        (b'{"text": "t"}', "mixed_formats", 2, None, "the row has the format text, and the file has prompt_completion"),
        (b'{"prompt": "p"}', "missing_field", 2, None, "'completion' is missing; the row has: prompt"),
        (b'{"prompt": "p", "completion": "c", "label": true}', "preference_data", 2, None, "DPO or KTO"),
        (b'{"prompt": "p", "chosen": "c", "rejected": "r"}', "preference_data", 2, None, "DPO or KTO"),
    ],
)
def test_a_bad_row_is_reported_by_name_line_and_column_and_the_rest_is_read(
    take: Take, raw: bytes, problem: str, line: int, column: int | None, says: str
) -> None:
    first, bad, last = take(GOOD + raw + b"\n" + GOOD)
    assert (first, last) == (pair(1), pair(3))
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.raw) == (2, raw)
    found = bad.problems[0]
    assert (found.name, found.line, found.column) == (problem, line, column)
    assert says in found.message
    assert len(found.message.splitlines()[0]) < 240


def test_a_message_shows_the_place_and_not_the_whole_row(take: Take) -> None:
    (bad,) = take(b'{"prompt": "' + b"p" * 10_000 + b'", "completion": oops, "more": "' + b"m" * 10_000 + b'"}')
    assert isinstance(bad, BadRow)
    first = bad.problems[0].message.splitlines()[0]
    assert "oops" in first
    assert len(first) < 160
    assert len(bad.problems[0].seen) < 1000
    (bad,) = take(b'{"a": "' + b"x" * 10_000 + b'"}')
    assert isinstance(bad, BadRow)
    assert len(bad.problems[0].message.splitlines()[0]) < 160


def test_all_problems_of_a_row_are_reported(take: Take) -> None:
    messages = [{"role": "wizard", "content": "c"}, {"role": "user"}, "hello", {"role": "user", "content": "", "x": 1}]
    (bad,) = take([{"messages": messages}])
    assert isinstance(bad, BadRow)
    assert [problem.name for problem in bad.problems] == [
        "unrecognized_role",
        "message_missing_key",
        "data_type",
        "missing_content",
        "message_unrecognized_key",
    ]


def test_the_last_line_may_be_cut_short_and_that_has_a_name(take: Take) -> None:
    _, bad = take(GOOD + GOOD[:-5])
    assert isinstance(bad, BadRow)
    assert bad.problems[0].name == "truncated_last_line"
    assert bad.problems[0].column == 31
    _, bad = take(GOOD + GOOD[:-5] + b"\n")
    assert isinstance(bad, BadRow)
    assert bad.problems[0].name == "broken_json"
    _, bad = take(GOOD + b'{"prompt": oops}')
    assert isinstance(bad, BadRow)
    assert bad.problems[0].name == "broken_json"


def test_a_place_within_an_array_is_a_place_of_the_file(take: Take) -> None:
    row = '{"prompt": "é", "completion": "c"}'
    rows = take(f'[{row}, {{"prompt": oops}},\n  {{"a":\n 1,}}, {row}]'.encode())
    places = [(bad.problems[0].line, bad.problems[0].column) for bad in rows if isinstance(bad, BadRow)]
    assert places in ([(1, 49), (3, 4)], [(1, 49), (3, 3)])  # newer Pythons name the comma
    assert [row.line for row in rows if not isinstance(row, Problem)] == [1, 1, 2, 3]


def test_the_format_of_a_file_is_that_of_its_first_good_row(take: Take) -> None:
    found = take([{"text": 7}, {"a": 1}, {"prompt": "p", "completion": "c"}, {"text": "t"}])
    assert [bad.problems[0].name for bad in found if isinstance(bad, BadRow)] == [
        "bad_field",
        "unknown_format",
        "mixed_formats",
    ]
    assert found[2] == pair(3)


def test_the_settings_fix_the_format_and_the_names_of_fields(take: Take) -> None:
    both = {"text": "t", "prompt": "p", "completion": "c"}
    assert take([both], format="text") == [Text(1, "t")]
    assert take([both]) == [pair(1)]
    assert take([{"question": "p", "answer": "c", "text": "not this"}], prompt="question", completion="answer") == [
        pair(1)
    ]
    (bad,) = take([{"conversations": TURNS}], format="messages")
    assert isinstance(bad, BadRow)
    assert bad.problems[0].name == "mixed_formats"
    (bad,) = take([{"a": 1}], format="messages")
    assert isinstance(bad, BadRow)
    assert bad.problems[0].name == "missing_messages_list"


def test_plain_text_is_read_only_when_it_is_asked_for(take: Take) -> None:
    data = "Über uns\r\nist {nichts}.\r\n\r\n[Ende]".encode()
    assert take(data, format="plain_text") == [Text(1, "Über uns\nist {nichts}."), Text(4, "[Ende]")]
    first, *_ = take(data)
    assert isinstance(first, BadRow)
    assert "a name that ends in .txt or .md" in first.problems[0].message
    (bad,) = take(b"\xe9", format="plain_text")
    assert isinstance(bad, BadRow)
    assert bad.problems[0].name == "not_utf8"


def test_a_parquet_file_is_rows_like_any_other(tmp_path: Path) -> None:
    tools = json.dumps([{"name": "f", "parameters": {"type": "object"}}])
    calls = [*TURNS[:1], {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]
    table = arrow.Table.from_pylist(
        [{"messages": TURNS, "tools": None}, {"messages": calls, "tools": tools}, {"messages": None}]
    )
    parquet.write_table(table, tmp_path / "rows")
    first, second, bad = read_rows(tmp_path / "rows", DataSettings())
    assert first == Example(1, TURNS, (False, True))
    assert isinstance(second, Example)
    assert second.tools is not None
    assert second.messages[1]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.raw, bad.problems[0].name) == (3, b"", "missing_messages_list")


def test_warnings_come_with_the_row_or_refuse_it_as_the_caller_likes() -> None:
    messages = [TURNS[0], TURNS[0], {**TURNS[1], "mood": "good"}]
    record = Record(7, json.dumps({"messages": messages}).encode())
    row, problems = parse_record(record, None, DataSettings())
    assert isinstance(row, Example)
    assert [problem.name for problem in problems] == ["message_unrecognized_key", "same_role_twice"]
    assert {problem.line for problem in problems} == {7}
    assert parse(record, "messages", DataSettings()) == row
    bad = parse(record, "messages", DataSettings(), tolerated=frozenset({"same_role_twice"}))
    assert bad == BadRow(7, record.raw, problems)


def test_what_is_refused_by_itself_can_be_tolerated_where_a_row_can_be_made() -> None:
    record = Record(1, json.dumps({"messages": TURNS[1:]}).encode())
    assert isinstance(parse(record, None, DataSettings()), BadRow)
    assert isinstance(parse(record, None, DataSettings(), TOLERATED | {"assistant_first"}), Example)
    broken = Record(1, b'{"messages": []}')
    assert isinstance(parse(broken, None, DataSettings(), TOLERATED | {"missing_messages_list"}), BadRow)


def test_several_processes_find_what_one_does(tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.write_bytes(b'oops\n{"text": 7}\n' + GOOD + b'{"text": "t"}\n[1]\n' + GOOD)
    settings = DataSettings()
    form = find_format(file, settings)
    assert form == "prompt_completion"
    apart = [parse(record, form, settings) for record in read_records(file) if isinstance(record, Record)]
    whole = list(read_rows(file, settings))
    assert apart[2:] == whole[2:]
    assert [isinstance(row, BadRow) for row in apart] == [isinstance(row, BadRow) for row in whole]


def test_a_file_without_good_rows_has_no_format(tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.write_bytes(b'oops\n{"a": 1}\n')
    assert find_format(file, DataSettings()) is None
    assert find_format(file, DataSettings(format="text")) == "text"
