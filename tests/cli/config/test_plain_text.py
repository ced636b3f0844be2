"""Files whose names say that they are plain text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from cli.config.plain_text import with_format_of
from cli.home.paths import Home
from events import kinds
from events.kinds import AnyEvent
from events.settings import DataSettings, JobSettings, ModelSettings

SETTINGS = JobSettings(model=ModelSettings(path="m"))

PROSE = "# Notes\n\nOne, two, three.\n\n[link](https://example.org) and text.\n"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("notes.txt", PROSE, "plain_text"),
        ("README.MD", '<p align="center">keepstep</p>\n\nIt trains.\n', "plain_text"),
        ("todo.md", "[ ] buy milk\n[x] sleep\n", "plain_text"),
        ("notes.jsonl", PROSE, "auto"),
        ("rows.txt", '{"prompt": "a", "completion": "b"}\n', "auto"),
        ("rows.txt", '[\n{"prompt": "a", "completion": "b"}\n]\n', "auto"),
        ("table.txt", "prompt\tcompletion\na\tb\n", "auto"),
        ("page.md", "<!DOCTYPE html><html></html>", "auto"),
        ("empty.txt", "", "auto"),
    ],
)
def test_a_name_and_what_is_in_the_file_say_plain_text_together(
    name: str, text: str, expected: str, tmp_path: Path
) -> None:
    """Rows, tables and pages are never trained as text, whatever they are called."""
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    assert with_format_of(SETTINGS, name, path).data.format == expected


def test_what_the_settings_name_wins(tmp_path: Path) -> None:
    """A format, or fields."""
    path = tmp_path / "file"
    path.write_text(PROSE, encoding="utf-8")
    for data in (DataSettings(format="messages"), DataSettings(prompt="q", completion="a")):
        assert with_format_of(replace(SETTINGS, data=data), "a.txt", path).data == data


def test_a_text_file_in_the_inbox_is_begun_as_plain_text(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], events: Callable[[], list[AnyEvent]]
) -> None:
    """The journal has it, so that every later reader of the file knows."""
    drop("a.md", "ok")
    drop("b.jsonl", "ok ok")
    said = run()
    assert not [line for line in said if "keepstep.toml" in line], "nobody changed it"
    begun = [event.settings.data.format for event in events() if isinstance(event, kinds.AttemptStarted)]
    assert begun == ["plain_text", "auto"]


def test_the_check_says_what_the_daemon_would_do(tmp_path: Path, trained: Home) -> None:
    """`data check notes.txt`, in the same call as rows."""
    from typer.testing import CliRunner

    from cli.app import app

    (tmp_path / "notes.txt").write_text("One two.\n\nThree four.\n", encoding="utf-8")
    (tmp_path / "rows.csv").write_text('prompt,completion\n1+1?,"2, really"\n', encoding="utf-8")
    files = [str(tmp_path / "notes.txt"), str(tmp_path / "rows.csv")]
    said = CliRunner().invoke(app, ["data", "check", *files, "--home", str(trained.root), "--json"])
    reports = json.loads(said.stdout)
    assert [(report["kind"], report["rows"]) for report in reports] == [("plain text", 2), ("CSV", 1)]
