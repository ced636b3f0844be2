"""Which tokens are learned, and which rows are refused rather than learned wrongly."""

from __future__ import annotations

from typing import Any

import pytest

from gpu.data.rows import Conversation, Pair, Row, Text
from gpu.data.tokens import Encoder, tokenizer_sha256
from gpu.errors import RowRejected
from tests.fakes.tiny_model import MARKED_TEMPLATE, PLAIN_TEMPLATE, UNSTABLE_TEMPLATE, make_tokenizer

DIALOGUE = Conversation(
    5,
    [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two?"},
        {"role": "assistant", "content": "2"},
    ],
)


def split(tokenizer: Any, row: Row, max_length: int = 1024) -> tuple[str, str]:
    """All that the model sees, and what of it is learned."""
    encoded = Encoder(tokenizer, max_length).encode(row)
    learned = [token for token, mark in zip(encoded.ids, encoded.learned, strict=True) if mark]
    return tokenizer.decode(encoded.ids), tokenizer.decode(learned)


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE])
def test_only_the_assistant_is_learned_in_every_turn_with_its_end(template: str) -> None:
    """Not the role header, and not the line break that the template puts after the end of a turn."""
    whole, learned = split(make_tokenizer(template), DIALOGUE)
    assert whole == (
        "<|system|>be kind<|end|>\n<|user|>one?<|end|>\n<|assistant|>1<|end|>\n"
        "<|user|>two?<|end|>\n<|assistant|>2<|end|>\n"
    )
    assert learned == "1<|end|>2<|end|>"


def test_a_pair_is_a_user_and_an_assistant_where_there_is_a_template() -> None:
    assert split(make_tokenizer(), Pair(1, "p", "c")) == ("<|user|>p<|end|>\n<|assistant|>c<|end|>\n", "c<|end|>")


def test_a_pair_without_a_template_is_prompt_completion_end() -> None:
    assert split(make_tokenizer(None), Pair(1, "p", "c")) == ("pc<|end|>", "c<|end|>")


def test_text_is_learned_whole_and_gets_one_end() -> None:
    assert split(make_tokenizer(), Text(1, "abc")) == ("abc<|end|>", "abc<|end|>")
    assert split(make_tokenizer(), Text(1, "abc<|end|>")) == ("abc<|end|>", "abc<|end|>")


def test_a_tokenizer_that_begins_texts_by_itself_begins_them_once() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer(None)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)]
    )
    assert split(tokenizer, Text(1, "a"))[0] == "<|begin|>a<|end|>"
    assert split(tokenizer, Text(1, "<|begin|>a"))[0] == "<|begin|>a<|end|>"
    assert split(tokenizer, Pair(1, "p", "c"))[0] == "<|begin|>pc<|end|>"


def test_too_long_rows_are_cut_at_the_end_and_said_to_be() -> None:
    encoder = Encoder(make_tokenizer(), 10)
    rows = [encoder.encode(Text(1, text)) for text in ("short", "x" * 50)]
    assert [(len(row.ids), row.truncated) for row in rows] == [(6, False), (10, True)]


@pytest.mark.parametrize(
    ("template", "row", "problem", "says"),
    [
        (UNSTABLE_TEMPLATE, DIALOGUE, "template_not_prefix_stable", "before message 3"),
        (None, DIALOGUE, "no_chat_template", "no chat template"),
        (PLAIN_TEMPLATE, Conversation(5, DIALOGUE.messages[:2]), "no_trainable_tokens", "answer is empty"),
        (PLAIN_TEMPLATE, Pair(5, "p", " "), "no_trainable_tokens", "answer is empty"),
        (PLAIN_TEMPLATE, Text(5, "\n"), "no_trainable_tokens", "answer is empty"),
        (PLAIN_TEMPLATE, Pair(5, "p" * 70, "c"), "no_trainable_tokens", "max_length = 64"),
        (PLAIN_TEMPLATE, Conversation(5, DIALOGUE.messages[2:3]), "bad_messages", "speaks first"),
        ("{{ raise_exception('no systems here') }}", DIALOGUE, "template_refused", "no systems here"),
    ],
)
def test_rows_that_cannot_be_learned_are_refused(template: str | None, row: Row, problem: str, says: str) -> None:
    with pytest.raises(RowRejected) as refused:
        Encoder(make_tokenizer(template), 64).encode(row)
    assert (refused.value.problem, refused.value.line) == (problem, 5)
    assert says in refused.value.message


def test_the_fingerprint_follows_tokenizer_and_template() -> None:
    assert tokenizer_sha256(make_tokenizer()) == tokenizer_sha256(make_tokenizer())
    assert tokenizer_sha256(make_tokenizer()) != tokenizer_sha256(make_tokenizer(MARKED_TEMPLATE))
    larger = make_tokenizer()
    larger.add_tokens(["keepstep"])
    assert tokenizer_sha256(larger) != tokenizer_sha256(make_tokenizer())


def test_the_fingerprint_does_not_change_with_use() -> None:
    tokenizer = make_tokenizer()
    before = tokenizer_sha256(tokenizer)
    Encoder(tokenizer, 64).encode(Pair(1, "p", "c"))
    assert tokenizer_sha256(tokenizer) == before
