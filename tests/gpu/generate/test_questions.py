"""Questions made of rows: exactly the tokens of training, and texts that a person can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from events.settings import DataSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.format.example import Example, Text
from gpu.generate.questions import CONTINUED_TOKENS_MAX, QuestionMaker, QuestionsUnusable, questions_of_file
from tests.harness.tiny_model import MARKED_TEMPLATE, PLAIN_TEMPLATE, make_tokenizer

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "first?"},
    {"role": "assistant", "content": "one"},
    {"role": "user", "content": "second?"},
    {"role": "assistant", "content": "two"},
]


def question_of(row: Any, template: str | None) -> tuple[Any, Encoder]:
    tokenizer = make_tokenizer(template)
    encoder = Encoder(tokenizer, DataSettings())
    piece = encoder.encode(row).pieces[-1]
    return QuestionMaker(tokenizer).make(piece.ids, piece.trained), encoder


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE], ids=["plain", "marked"])
def test_the_prompt_is_what_the_last_answer_follows_in_training(template: str) -> None:
    """The same tokens as those that `keepstep ask` gives the model."""
    row = Example(1, TURNS, (False, False, True, False, True))
    question, encoder = question_of(row, template)
    assert question.ids == encoder.encode_prompt(TURNS[:-1])
    assert (question.prompt, question.expected) == ("second?", "two")


def test_without_a_chat_template_it_is_the_plain_prompt() -> None:
    row = Example(
        1, [{"role": "user", "content": "What? "}, {"role": "assistant", "content": "That."}], (False, True), plain=True
    )
    question, encoder = question_of(row, None)
    assert question.ids == encoder.encode_prompt([{"role": "user", "content": "What? "}])
    assert (question.prompt, question.expected) == ("What?", "That.")


def test_a_text_is_continued() -> None:
    """Half of a short one, a few tokens of a long one."""
    short, _ = question_of(Text(1, "abcdefgh"), None)
    assert short.prompt + short.expected == "abcdefgh"
    long, _ = question_of(Text(1, "word " * 100), None)
    assert len(long.ids) == CONTINUED_TOKENS_MAX


def test_a_row_without_a_prompt_or_an_answer_is_none() -> None:
    maker = QuestionMaker(make_tokenizer())
    assert maker.make([], []) is None
    assert maker.make([9, 10], [0, 0]) is None
    assert maker.make([9], [1]) is None
    assert maker.make([9, 2], [0, 1]) is None  # the answer is the end token alone


def test_an_id_follows_from_the_tokens() -> None:
    """The same row has the same id wherever it stands."""
    row = Example(1, TURNS, (False, False, True, False, True))
    first, second = question_of(row, PLAIN_TEMPLATE)[0], question_of(row, PLAIN_TEMPLATE)[0]
    assert first.id == second.id
    assert len(first.id) == 12


def read(path: Path, rows: list[Any], count_max: int = 3) -> Any:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = make_tokenizer()
    encoder = Encoder(tokenizer, DataSettings())
    return questions_of_file(path, DataSettings(), encoder, QuestionMaker(tokenizer), count_max)


def test_a_file_gives_its_rows_in_order_each_once(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "completion": "a"} for n in (2, 1, 2)]
    assert [each.prompt for each in read(tmp_path / "p.jsonl", rows)] == ["p2", "p1"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no row"),
        ([{"prompt": "a"}], "line 1: the fields"),
        ([{"prompt": "a", "completion": " "}], "line 1: the field 'completion' is empty"),
        ([{"prompt": f"p{n}", "completion": "a"} for n in range(4)], "more than 3 prompts"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(rows: list[Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(QuestionsUnusable, match=says):
        read(tmp_path / "p.jsonl", rows)
