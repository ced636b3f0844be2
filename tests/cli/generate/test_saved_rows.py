"""A dialogue as a training row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.errors import UserError
from cli.generate.saved_rows import save_row
from cli.home.paths import Home
from events.generation import ChatMessage
from events.settings import DataSettings
from gpu.data.format.example import Example
from gpu.data.format.rows import read_rows
from tests.harness.syncs import Syncs

DIALOGUE = [ChatMessage("system", "Be kind."), ChatMessage("user", "añ?"), ChatMessage("assistant", "Yes.\n")]


def test_rows_are_those_that_training_reads(home: Home, tmp_path: Path) -> None:
    """Also after the last line of another program, which has no line end."""
    path = tmp_path / "saved.jsonl"
    save_row(path, DIALOGUE[1:], home)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    save_row(path, DIALOGUE, home)
    rows = [*read_rows(path, DataSettings())]
    assert [type(row) for row in rows] == [Example, Example]
    assert [json.loads(line)["messages"][-1]["content"] for line in path.read_text().splitlines()] == ["Yes.\n"] * 2
    assert rows[1].messages[0] == {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize(
    ("name", "messages", "message"),
    [
        ("a.jsonl", [], "nothing was answered yet"),
        ("a.jsonl", [*DIALOGUE[:2], ChatMessage("assistant", " ")], "an answer is empty"),
        ("a.txt", DIALOGUE, r"does not end in \.jsonl"),
        ("home/inbox/high/a.jsonl", DIALOGUE, "is in a directory of the home"),
        ("home/data/../inbox/a.jsonl", DIALOGUE, "is in a directory of the home"),
        ("none/a.jsonl", DIALOGUE, "cannot be written: No such file"),
        (".", DIALOGUE, r"does not end in \.jsonl"),
    ],
)
def test_what_cannot_be_saved_is_a_sentence(
    home: Home, tmp_path: Path, name: str, messages: list[ChatMessage], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        save_row(tmp_path / name, messages, home)
    assert not (tmp_path / name).is_file()


def test_a_saved_row_survives_a_power_cut(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one, with the name of its file, and the next."""
    syncs, path = Syncs(monkeypatch), tmp_path / "saved.jsonl"
    for _ in range(2):
        save_row(path, DIALOGUE, home)
        assert syncs.lacks(path) == []
