"""Where the prompts of a comparison come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.commands.init import create_home
from cli.errors import UserError
from cli.generate.prompts import draw, find_prompts
from cli.home.paths import Home
from events.generation import ChatMessage
from events.settings import DataSettings, JobSettings, ModelSettings

ROWS = [
    {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q1"},
            {"role": "assistant", "content": "a1"},
        ]
    },
    {"messages": [{"role": "user", "content": "q2"}, {"role": "assistant", "content": "a2"}]},
    {"messages": [{"role": "user", "content": "q3"}, {"role": "assistant", "content": "a3"}]},
]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create_home(tmp_path / "home", model="some/model")


def settings(validation: str | None = None) -> JobSettings:
    return JobSettings(model=ModelSettings(path="some/model"), data=DataSettings(validation=validation))


@pytest.fixture
def rows(home: Home) -> Path:
    path = home.root / "held-out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_prompts_of_the_command_line_come_first(home: Home, rows: Path) -> None:
    found = find_prompts(home, settings("held-out.jsonl"), ("one", "two"), None, None)
    assert [prompt.messages for prompt in found] == [(ChatMessage("user", "one"),), (ChatMessage("user", "two"),)]
    assert [prompt.text for prompt in find_prompts(home, settings(), ("one",), rows, None)] == ["one", "q1", "q2", "q3"]


def test_rows_of_a_data_file_have_their_own_answer(home: Home, rows: Path) -> None:
    first = find_prompts(home, settings(), (), rows, None)[0]
    assert first.messages == (ChatMessage("system", "s"), ChatMessage("user", "q1"))
    assert first.expected == "a1"


def test_lines_of_a_text_file_are_prompts(home: Home, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("What is it?\n\n Why?\n", encoding="utf-8")
    found = find_prompts(home, settings(), (), tmp_path / "p.txt", None)
    assert [(prompt.text, prompt.expected) for prompt in found] == [("What is it?", None), (" Why?", None)]


def test_without_a_prompt_the_same_rows_of_the_validation_set_are_drawn(home: Home, rows: Path) -> None:
    found = find_prompts(home, settings("held-out.jsonl"), (), None, 2)
    assert len(found) == 2
    assert found == find_prompts(home, settings("held-out.jsonl"), (), None, 2)
    assert {prompt.text for prompt in found} < {"q1", "q2", "q3"}
    assert len(find_prompts(home, settings("held-out.jsonl"), (), None, None)) == 3


def test_more_rows_than_there_are_is_all_of_them_in_order(home: Home, rows: Path) -> None:
    found = find_prompts(home, settings(), (), rows, None)
    assert draw(found, 99) == found


def test_without_a_prompt_and_a_validation_set_the_message_says_what_to_write(home: Home) -> None:
    with pytest.raises(UserError, match="no validation set") as caught:
        find_prompts(home, settings(), (), None, None)
    assert "--file" in caught.value.advice


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n \n", "has no prompt"),
        ("latin.txt", b"caf\xe9\n", "not UTF-8"),
        ("empty.jsonl", b"", "no rows"),
        ("text.jsonl", b'{"text": "only text"}\n', "no row with a prompt and an answer"),
    ],
)
def test_file_without_prompts_is_refused(home: Home, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        find_prompts(home, settings(), (), tmp_path / name, None)
