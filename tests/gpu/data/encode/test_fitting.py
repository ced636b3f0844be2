"""Rows that are too long, or have tokens that the model cannot take, are cut, dropped, split or refused."""

from __future__ import annotations

from typing import Any

import pytest

from events.settings import DataSettings
from gpu.data.encode.encoder import Encoder
from gpu.data.encode.fitting import EncodedRow
from gpu.data.format.example import Example, Text, Tokenised
from gpu.model.limits import ModelLimits
from tests.harness.tiny_model import PLAIN_TEMPLATE, UNSTABLE_TEMPLATE, make_tokenizer

ROWS = 262
"""Tokens of the tiny tokenizer."""


def pair(prompt: str, completion: str) -> Example:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return Example(5, turns, (False, True), plain=True)


def encoder(long: Any = "truncate", max_length: int = 64, extra: tuple[str, ...] = (), **limits: int) -> Encoder:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(list(extra))
    return Encoder(tokenizer, DataSettings(max_length=max_length, long=long), ModelLimits(**limits))


def named(encoding: EncodedRow) -> list[str]:
    return [problem.name for problem in (*encoding.warnings, *([encoding.problem] if encoding.problem else []))]


@pytest.mark.parametrize(("long", "treatment"), [("truncate", "dropped"), ("drop", "dropped"), ("split", "split")])
def test_a_row_whose_answer_is_cut_off_is_too_long_and_not_bad(long: Any, treatment: str) -> None:
    encoding = encoder(long).encode(pair("p" * 70, "answer"))
    assert (encoding.problem, encoding.long) == (None, treatment)
    assert bool(encoding.pieces) == (long == "split")
    assert named(encoding) == (["answer_cut_off"] if long == "truncate" else [])
    assert "max_length = 64" in "".join(each.message for each in encoding.warnings) or long != "truncate"


def test_a_row_of_several_pieces_keeps_those_that_have_an_answer() -> None:
    """The template writes each answer as a separate piece."""
    texts = zip(("user", "assistant") * 2, ("q", "first", "q" * 90, "second"), strict=True)
    row = Example(5, [{"role": role, "content": text} for role, text in texts], (False, True, False, True))
    last = "{% if loop.last and message['role'] == 'assistant' %}.{% endif %}"
    template = PLAIN_TEMPLATE.replace("<|end|>", f"<|end|>{last}")
    encoding = Encoder(make_tokenizer(template), DataSettings(max_length=64)).encode(row)
    assert (encoding.problem, encoding.long, named(encoding)) == (None, "truncated", [])
    assert len(encoding.pieces) == 1


def test_a_row_of_which_the_template_leaves_nothing_is_bad_however_long_it_is() -> None:
    template = "xy{% generation %}{% endgeneration %}{{ messages[0].content }}"
    made = Encoder(make_tokenizer(template), DataSettings(max_length=64)).encode(pair("p" * 70, "c"))
    assert named(made) == ["template_drops_text"]


@pytest.mark.parametrize(
    ("long", "treatment", "sizes"),
    [("truncate", "truncated", [20]), ("drop", "dropped", []), ("split", "split", [20, 12])],
)
def test_a_model_takes_no_more_tokens_than_it_has_positions(long: Any, treatment: str, sizes: list[int]) -> None:
    """Its positions limit rows below `max_length`, and `long` decides about longer ones."""
    encoding = encoder(long, positions=20).encode(Text(5, "x" * 30))
    assert (encoding.long, [len(piece.ids) for piece in encoding.pieces]) == (treatment, sizes)


def test_a_row_beyond_the_positions_is_refused_with_both_numbers() -> None:
    problem = encoder("refuse", positions=20).encode(Text(5, "x" * 30)).problem
    assert problem is not None
    assert (
        "31 tokens, more than the 20 tokens that the model has positions for ([data] max_length = 64)"
        in problem.message
    )
    assert "raise" not in problem.advice.lower()


def test_more_positions_than_max_length_change_nothing() -> None:
    row = Text(5, "x" * 100)
    assert encoder(positions=1000).encode(row) == encoder().encode(row)


def test_a_row_longer_than_in_pretraining_is_reported_and_kept_whole() -> None:
    encoding = encoder(trained_positions=20).encode(Text(5, "x" * 30))
    assert (len(encoding.pieces[0].ids), named(encoding)) == (31, ["beyond_trained_positions"])
    assert "31 tokens, but the model was trained with at most 20" in encoding.warnings[0].message
    assert named(encoder(trained_positions=31).encode(Text(5, "x" * 30))) == []


def test_a_token_beyond_the_embedding_refuses_its_row_alone() -> None:
    """A larger tokenizer is fine if no row uses the extra tokens."""
    made = encoder(extra=("<think>",), embedding_rows=ROWS)
    used, unused = made.encode_many([pair("p", "<think>c"), pair("p", "c")])
    assert (named(used), named(unused), used.pieces) == (["token_out_of_range"], [], ())
    assert used.problem is not None
    for said in ("id 262", "has 262 rows", "has 263 tokens", "<think>", "resize_token_embeddings"):
        assert said in used.problem.message


def test_a_token_beyond_the_embedding_that_is_cut_off_does_no_harm() -> None:
    made = encoder(extra=("<think>",), embedding_rows=ROWS, max_length=8)
    assert named(made.encode(Text(5, "0123456789<think>"))) == []


def test_an_embedding_with_more_rows_than_tokens_takes_them_all() -> None:
    assert named(encoder(embedding_rows=320).encode(Tokenised(5, [261, 261], [True, True]))) == []
    assert named(encoder(embedding_rows=320).encode(Tokenised(5, [262, 261], [True, True]))) == ["token_out_of_range"]


def test_settings_and_tokenizer_beyond_the_model_are_reported_with_both_numbers() -> None:
    assert encoder(embedding_rows=ROWS, positions=64, trained_positions=8).warnings() == []
    tokens, length = encoder(extra=("<think>",), embedding_rows=ROWS, positions=20).warnings()
    assert (tokens.name, length.name) == ("tokenizer_beyond_embedding", "max_length_beyond_positions")
    assert "263 tokens" in tokens.message
    assert "262 rows" in tokens.message
    assert "max_length = 64, but the model has 20 positions" in length.message


def test_a_template_that_writes_earlier_turns_otherwise_is_held_to_the_positions_too() -> None:
    tokenizer = make_tokenizer(UNSTABLE_TEMPLATE.replace("messages | length", "''"))
    made = Encoder(tokenizer, DataSettings(long="split"), ModelLimits(positions=20)).encode(pair("p" * 30, "c" * 30))
    assert made.pieces
    assert max(len(piece.ids) for piece in made.pieces) == 20
