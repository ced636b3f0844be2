"""Data files, good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from events.settings import DataSettings
from gpu.data.rows import Conversation, Pair, Row, Text, read_rows
from gpu.errors import RowRejected

GOOD = b'{"prompt": "p", "completion": "c"}\n'
TURNS = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]


def read(path: Path, data: bytes, **settings: Any) -> list[Row]:
    file = path / "rows.jsonl"
    file.write_bytes(data)
    return list(read_rows(file, DataSettings(**settings)))


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({"messages": TURNS}, Conversation(1, TURNS)),
        ({"prompt": "p", "completion": "c"}, Pair(1, "p", "c")),
        ({"instruction": "i", "output": "o"}, Pair(1, "i", "o")),
        ({"instruction": "i", "input": "", "output": "o"}, Pair(1, "i", "o")),
        ({"instruction": "i", "input": "x", "output": "o"}, Pair(1, "i\n\nx", "o")),
        ({"text": "t"}, Text(1, "t")),
    ],
)
def test_every_format_is_recognised_by_its_fields(tmp_path: Path, fields: dict[str, Any], row: Row) -> None:
    assert read(tmp_path, json.dumps(fields).encode()) == [row]


def test_mapped_fields_are_a_prompt_and_its_completion(tmp_path: Path) -> None:
    data = b'{"question": "q", "answer": "a", "text": "not this"}'
    assert read(tmp_path, data, prompt="question", completion="answer") == [Pair(1, "q", "a")]


def test_blank_lines_and_a_byte_order_mark_are_skipped_and_lines_still_counted(tmp_path: Path) -> None:
    rows = read(tmp_path, b"\xef\xbb\xbf" + GOOD + b"\n  \r\n" + GOOD.strip())
    assert rows == [Pair(1, "p", "c"), Pair(4, "p", "c")]


@pytest.mark.parametrize(
    ("data", "problem", "line", "says"),
    [
        (b"", "empty_file", None, "no rows"),
        (b" \n\n", "empty_file", None, "no rows"),
        (GOOD + b"\x00\x01", "not_text", 2, "NUL"),
        (b"\x1f\x8b\x08zipped", "not_text", 1, "byte 2 of the line is not UTF-8"),
        (GOOD + GOOD + b'{"prompt": "p", oops}', "broken_json", 3, "column 17"),
        (b'{"prompt": ' + b"[" * 100_000, "broken_json", 1, "broken JSON"),
        (b'["a"]', "not_an_object", 1, "a list, not a JSON object"),
        (b"null", "not_an_object", 1, "null"),
        (b'{"a": 1, "b": 2}', "unknown_format", 1, "a, b"),
        (b"{}", "unknown_format", 1, "none"),
        (GOOD + b'{"text": "t"}', "missing_field", 2, "'prompt' is missing"),
        (b'{"prompt": "p", "completion": 7}', "bad_field", 1, "a number"),
        (b'{"text": "\\ud83d"}', "not_text", 1, "half a character"),
        (b'{"messages": []}', "bad_messages", 1, "an empty list"),
        (b'{"messages": ["hello"]}', "bad_messages", 1, "message 1 must be an object"),
        (b'{"messages": [{"role": "wizard", "content": "c"}]}', "bad_messages", 1, "system, user, assistant"),
        (b'{"messages": [{"role": "user", "content": ["c"]}]}', "bad_messages", 1, "content of message 1"),
        (b'{"messages": [{"role": "assistant", "tool_calls": [1]}]}', "bad_messages", 1, "tool_calls"),
    ],
)
def test_bad_files_are_refused_by_name_and_line(
    tmp_path: Path, data: bytes, problem: str, line: int | None, says: str
) -> None:
    with pytest.raises(RowRejected) as refused:
        read(tmp_path, data)
    assert (refused.value.problem, refused.value.line) == (problem, line)
    assert says in refused.value.message


def test_a_message_shows_the_beginning_of_the_line_only(tmp_path: Path) -> None:
    with pytest.raises(RowRejected) as refused:
        read(tmp_path, b'{"a": "' + b"x" * 1000)
    assert len(refused.value.message.splitlines()[0]) < 160
