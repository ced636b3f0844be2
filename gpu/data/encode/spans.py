"""Which tokens of a text belong to a part of it that is trained.

A text is always tokenised as a whole: a tokenizer that puts a space before each text it is given (SentencePiece), or
that makes one token of the end of a prompt and the beginning of its answer, gives other tokens for the parts than for
the whole. A part is found again by the places of its characters: a token that has one of them belongs to it.

That is what TRL trains: it tokenises the prompt, and the prompt with its completion, and trains what follows the
tokens that the two have in common. Both agree wherever only the token at the boundary differs. Where more of the prompt
is tokenised in another way, TRL trains those tokens of the prompt too; here they stay context.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

TRIMS = b'"trim_offsets":true'
"""How the state of a post-processor says that its offsets leave out the spaces of a token."""


class Tokens(NamedTuple):
    """A text, tokenised."""

    ids: list[int]
    encoding: Any
    """The `Encoding` of the `tokenizers` library, which has the place of each token; None of a slow tokenizer."""


@lru_cache(maxsize=1)  # a large vocabulary takes seconds to copy, and a file is encoded by two encoders
def with_exact_offsets(tokenizer: Any) -> Any:
    """`tokenizer`, or a copy of it whose offsets count the spaces of a token.

    Many byte-level tokenizers leave them out (`trim_offsets`), and a token of only spaces then has no place at all:
    an answer that begins with one would be trained without it, or not at all.
    """
    processor = tokenizer.backend_tokenizer.post_processor if tokenizer.is_fast else None
    state = processor.__getstate__() if processor is not None else b""
    if TRIMS not in state:
        return tokenizer
    copied = copy.deepcopy(tokenizer)
    processor = copied.backend_tokenizer.post_processor
    processor.__setstate__(state.replace(TRIMS, TRIMS.replace(b"true", b"false")))
    copied.backend_tokenizer.post_processor = processor
    return copied


def covering(tokens: Tokens, start: int, end: int, added: Collection[int]) -> tuple[int, int]:
    """The tokens that have one of the characters from `start` to `end`: the first of them, and the one after the last.

    `added`: the ids of added tokens. One that begins before `start` is not counted: it ends a role header, and takes
    the spaces after it with it (`rstrip`), which a model never writes.
    """
    encoding = tokens.encoding
    first = next((token for at in range(start, end) if (token := encoding.char_to_token(at)) is not None), None)
    if first is None:  # the tokenizer drops them all
        return len(tokens.ids), len(tokens.ids)
    last = next(token for at in range(end - 1, start - 1, -1) if (token := encoding.char_to_token(at)) is not None)
    # A character of several tokens is said to be in the first of them.
    while last + 1 < len(encoding) and (place := encoding.token_to_chars(last + 1)) is not None and place[0] < end:
        last += 1
    if tokens.ids[first] in added and encoding.token_to_chars(first)[0] < start:
        first += 1
    return int(first), int(last) + 1


def common_prefix(ids: Sequence[object], others: Sequence[object]) -> int:
    """The number of tokens, or characters, that both begin with."""
    pairs = enumerate(zip(ids, others, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(ids), len(others)))
