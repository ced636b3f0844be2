"""Rows of self-correction, through the real encoder: what of them is trained."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.correction.row_text import QUESTION, RIGHT, WRONG, Row, judged, original, with_answer
from events.settings import DataSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.format.example import Example
from gpu.data.format.rows import parse_record
from gpu.data.read.record import Record
from tests.harness.chat_tokenizer import make_chat_tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_LIKE = CHATML.replace("{{ message.content }}", "{{ message.content.split('</think>')[-1] }}")

PROVENANCE = {"self_correction": {"kind": "wrong", "prompt_row": "ab:1", "seed": 1}}

CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 1+1?"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "What is 2+2?"},
        {"role": "assistant", "content": "four"},
    ]
}
PLAIN = {"prompt": "2+2=", "completion": "four"}


def encoder(template: str | None = CHATML) -> tuple[Encoder, Any]:
    tokenizer = make_chat_tokenizer(template, ["<|im_start|>", "<|im_end|>"], bos=None, eos="<|im_end|>")
    return Encoder(tokenizer, DataSettings(max_length=4096)), tokenizer


def parse(row: Row) -> Any:
    """The row as a data file has it, with the key that says where it is from."""
    made, problems = parse_record(Record(1, json.dumps({**row, **PROVENANCE}).encode()), None, DataSettings())
    assert not problems
    return made


def example(row: Row) -> Example:
    made = parse(row)
    assert isinstance(made, Example)
    return made


def texts(row: Row, template: str | None = CHATML) -> tuple[str, str]:
    """What is trained of a row, and all of it."""
    made, tokenizer = encoder(template)
    encoded = made.encode(parse(row))
    assert encoded.problem is None
    assert not encoded.warnings
    (piece,) = encoded.pieces
    trained = [token for token, mark in zip(piece.ids, piece.trained, strict=True) if mark]
    return tokenizer.decode(trained), tokenizer.decode(piece.ids)


@pytest.mark.parametrize("template", [CHATML, None])
@pytest.mark.parametrize("verdict", [RIGHT, WRONG])
def test_a_shown_answer_is_context_and_only_the_verdict_is_trained(template: str | None, verdict: str) -> None:
    """A wrong answer is never a target, nor is an earlier answer of the dialogue: the masks say so."""
    source = example(CHAT if template else PLAIN)
    row = judged(source, "FIVE", verdict, "<think>", chat=template is not None)
    trained, whole = texts(row, template)
    assert "FIVE" in whole
    assert QUESTION in whole
    assert "FIVE" not in trained
    assert "two" not in trained
    assert QUESTION not in trained
    expected = "incorrect\n\nfour" if verdict == WRONG else "correct"
    assert trained.replace("<|im_end|>", "").strip() == expected


@pytest.mark.parametrize("template", [CHATML, None])
def test_an_own_answer_is_trained_in_place_of_the_reference(template: str | None) -> None:
    """Alone: the earlier answers of the dialogue are context."""
    row = with_answer(example(CHAT if template else PLAIN), "4", chat=template is not None)
    trained, whole = texts(row, template)
    assert trained.replace("<|im_end|>", "").strip() == "4"
    assert "four" not in whole
    assert ("two" in whole) == (template is not None)


@pytest.mark.parametrize(
    "row",
    [
        CHAT,
        {"prompt": "2+2=", "completion": " four"},
        {"instruction": "Add.", "input": "2+2", "output": "four"},
        {"messages": [*CHAT["messages"][:2], {**CHAT["messages"][2], "train": False}, *CHAT["messages"][3:]]},
        {
            "messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "four"}],
            "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}],
            "chat_template_kwargs": {"style": "brief"},
        },
    ],
)
def test_a_gold_row_is_trained_exactly_as_in_its_own_file(row: Row) -> None:
    """The same tokens, and the same ones are trained."""
    template = "{{ style }}{{ tools | tojson if tools else '' }}" + CHATML
    made, _ = encoder(template)
    before, after = (made.encode(parse(each)) for each in (row, original(example(row), chat=True)))
    assert before.problem is None
    assert [(piece.ids, list(piece.trained)) for piece in before.pieces] == [
        (piece.ids, list(piece.trained)) for piece in after.pieces
    ]


def test_a_gold_row_without_a_chat_template_stays_a_prompt_and_a_completion() -> None:
    """Byte for byte."""
    assert original(example(PLAIN), chat=False) == PLAIN


def test_a_train_of_thought_of_a_shown_answer_is_left_out() -> None:
    """Templates drop the reasoning of earlier answers, and the verdict is about what follows it."""
    row = judged(example(CHAT), "<think>3? 5?</think>FIVE", WRONG, "<think>", chat=True)
    assert row["messages"][-3] == {"role": "assistant", "content": "FIVE", "train": False}
    assert "FIVE" in texts(row, QWEN_LIKE)[1]
