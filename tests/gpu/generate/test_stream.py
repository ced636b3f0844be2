"""Text from tokens: whole characters, nothing lost."""

from __future__ import annotations

import torch

from gpu.generate.stream import StopRequested, TextStream
from tests.harness.tiny_model import make_tokenizer

TEXT = "añ 🦶 日本\n  end"
"""Its characters have one to four bytes; the tokenizer has a token for each byte."""


def streamed(ids: list[int], *stop: str) -> list[str]:
    shown: list[str] = []
    stream = TextStream(make_tokenizer(), shown.append, stop)
    stream.put(torch.tensor([[1, 2, 3]]))  # the prompt
    for token in ids:
        stream.put(torch.tensor([token]))
    stream.end()
    assert stream.tokens == ids
    return shown


def test_text_comes_in_whole_characters() -> None:
    shown = streamed(make_tokenizer()(TEXT)["input_ids"])
    assert "".join(shown) == TEXT
    assert "🦶" in shown
    assert len(shown) == len(TEXT)


def test_special_tokens_are_not_shown() -> None:
    tokenizer = make_tokenizer()
    assert "".join(streamed(tokenizer("yes<|end|>")["input_ids"])) == "yes"


def test_answer_that_ends_within_a_character_is_shown_to_its_end() -> None:
    shown = streamed(make_tokenizer()("a🦶")["input_ids"][:-1])
    assert shown[0] == "a"
    assert "".join(shown[1:]).strip("\N{REPLACEMENT CHARACTER}") == ""


def test_text_ends_before_the_first_stop_text() -> None:
    """Nothing of it is shown, though its beginning could be text; a beginning that comes to nothing is text."""
    ids = make_tokenizer()("one EN two END three")["input_ids"]
    assert "".join(streamed(ids, "\n\n", "END")) == "one EN two "
    assert "".join(streamed(ids, "three!", "!")) == "one EN two END three"
    assert "".join(streamed(ids, "o END", "two")) == "one EN "
    assert "".join(streamed(make_tokenizer()("aab aaab")["input_ids"], "aaab")) == "aab "


def test_generation_ends_once_it_is_stopped() -> None:
    requested = False
    stop = StopRequested(lambda: requested)
    assert not stop(torch.zeros(1, 3), torch.zeros(1)).any()
    requested = True
    assert stop(torch.zeros(1, 3), torch.zeros(1)).tolist() == [True]
