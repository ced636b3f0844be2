"""The rows of CSV and TSV tables are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from events.settings import DataSettings
from gpu.data.format.example import Example
from gpu.data.format.rows import read_rows
from gpu.data.problems import Problem
from gpu.data.read.record import Record
from gpu.data.read.source import read_records


def take(tmp_path: Path, text: str | bytes, chunk: int = 0, monkeypatch: Any = None) -> list[Record | Problem]:
    path = tmp_path / "f"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(read_records(path))


def fields(found: list[Record | Problem]) -> list[tuple[int, dict[str, Any] | None]]:
    return [(one.line, one.fields) for one in found if isinstance(one, Record)]


def test_a_row_has_the_names_of_the_header(tmp_path: Path) -> None:
    """Quoted delimiters, quotes and line ends belong to the field; blank lines are counted; values are strings."""
    found = take(tmp_path, '\ufeffprompt,completion,n\r\n"1,\n1?","2 ""two""",3\r\n\r\na,true,0.5\r\n')
    assert fields(found) == [
        (2, {"prompt": "1,\n1?", "completion": '2 "two"', "n": "3"}),
        (5, {"prompt": "a", "completion": "true", "n": "0.5"}),
    ]
    assert isinstance(found[1], Record)
    assert found[1].raw == b"a,true,0.5\r"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("prompt,completion\na,b\nc,d,e\n", 3, "3 fields, but the header names 2"),
        ("prompt,completion\na,b\nc\n", 3, "1 fields"),
        ('prompt,completion\na,"b" c\n', 2, "broken quotes"),
        ('prompt,completion\na,"b\n', 2, "broken quotes"),
    ],
)
def test_a_broken_table_ends_at_the_broken_row(text: str, line: int, says: str, tmp_path: Path) -> None:
    """The rows before it are read; nothing after it is certain."""
    *_, last = take(tmp_path, text)
    assert isinstance(last, Problem)
    assert (last.name, last.line) == ("broken_csv", line)
    assert says in last.what


def test_a_table_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (problem,) = take(tmp_path, b"prompt,completion\na,b\xe9\n")
    assert isinstance(problem, Problem)
    assert (problem.name, problem.line) == ("wrong_encoding", 2)


def test_rows_go_the_way_of_all_rows(tmp_path: Path) -> None:
    """Formats and fields of the settings apply, and preference data is refused."""
    (tmp_path / "f").write_text("frage\tantwort\n1+1?\t2\n2+2?\t4\n", encoding="utf-8")
    good = list(read_rows(tmp_path / "f", DataSettings(prompt="frage", completion="antwort")))
    assert [row.messages[1]["content"] for row in good if isinstance(row, Example)] == ["2", "4"]
    (tmp_path / "f").write_text("prompt,chosen,rejected\na,b,c\n", encoding="utf-8")
    (bad,) = read_rows(tmp_path / "f", DataSettings())
    assert bad.problems[0].name == "preference_data"
