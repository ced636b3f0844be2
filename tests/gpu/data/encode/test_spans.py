"""The tokens of a part of a text are found by its characters."""

from __future__ import annotations

from typing import Any

import pytest

from gpu.data.encode.spans import TokenizedText, token_range, with_exact_offsets
from gpu.data.template.divergence import common_prefix
from tests.harness.spaced_tokenizer import make_spaced_tokenizer
from tests.harness.tiny_model import make_tokenizer


def tokens_of(tokenizer: Any, text: str) -> TokenizedText:
    made = tokenizer([text], add_special_tokens=False)
    return TokenizedText(list(made["input_ids"][0]), made.encodings[0])


@pytest.mark.parametrize(
    ("text", "start", "end", "pieces"),
    [
        ("The answer", 0, 3, ["▁The"]),
        ("The answer", 2, 5, ["▁The", "▁a"]),
        ("Q日", 1, 2, ["<0xE6>", "<0x97>", "<0xA5>"]),
        ("Q</s> ", 1, 5, ["</s>"]),
    ],
)
def test_a_token_with_one_character_of_the_part_belongs_to_it(
    text: str, start: int, end: int, pieces: list[str]
) -> None:
    tokens = tokens_of(make_spaced_tokenizer("first"), text)
    first, after = token_range(tokens, start, end, ())
    assert tokens.encoding.tokens[first:after] == pieces


def test_a_role_header_that_takes_the_spaces_after_it_stays_outside() -> None:
    from tokenizers import AddedToken

    tokenizer = make_tokenizer(None)
    tokenizer.add_tokens([AddedToken("<|bot|>", rstrip=True)])
    tokens, added = tokens_of(tokenizer, "<|bot|>  A"), tokenizer.convert_tokens_to_ids("<|bot|>")
    assert token_range(tokens, 8, 10, {added}) == (1, 2)
    assert token_range(tokens, 8, 10, ()) == (0, 2)


def test_a_part_without_any_token_is_empty() -> None:
    """It is not the whole text."""
    tokenizer = make_tokenizer(None)
    from tokenizers.normalizers import Strip

    tokenizer.backend_tokenizer.normalizer = Strip()
    assert token_range(tokens_of(tokenizer, "A  "), 1, 3, ()) == (1, 1)


def test_offsets_that_leave_out_spaces_are_made_exact_in_a_copy() -> None:
    tokenizer = make_spaced_tokenizer("bytes")
    before = tokenizer.backend_tokenizer.to_str()
    exact = with_exact_offsets(tokenizer)
    assert [tokens_of(each, "x  T").encoding.offsets[-1] for each in (tokenizer, exact)] == [(3, 4), (2, 4)]
    assert exact("x  T")["input_ids"] == tokenizer("x  T")["input_ids"]
    assert tokenizer.backend_tokenizer.to_str() == before
    assert with_exact_offsets(tokenizer) is exact


def test_a_tokenizer_with_exact_offsets_is_not_copied() -> None:
    tokenizer = make_spaced_tokenizer("always")
    assert with_exact_offsets(tokenizer) is tokenizer


def test_the_common_prefix_ends_where_tokens_differ() -> None:
    assert [common_prefix(*pair) for pair in (([1, 2, 3], [1, 2, 4]), ([1], [1, 2]), ([], [1]), ([2], [1]))] == [
        2,
        1,
        0,
        0,
    ]
