"""Find the tokens that belong to a trained part of a text.

A text is always tokenised as a whole. A tokenizer that puts a space before each text (SentencePiece), or that makes one
token of the end of a prompt and the beginning of its answer, gives other tokens for the parts than for the whole. The
part is found by the positions of its characters: a token with one of them belongs to it.

TRL tokenises the prompt, and the prompt with its completion, and trains what follows the tokens that both share. The
results agree wherever only the token at the boundary differs. Where more of the prompt is tokenised differently, TRL
trains those tokens of the prompt too; here they stay context.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from functools import lru_cache
from typing import Any, NamedTuple

TRIMS = b'"trim_offsets":true'
"""The setting in the state of a post-processor that excludes the spaces of a token from its offsets."""


class TokenizedText(NamedTuple):
    """A text after tokenising."""

    ids: list[int]
    encoding: Any
    """The `EncodedRow` of the `tokenizers` library, which has the place of each token; None of a slow tokenizer."""


@lru_cache(maxsize=1)  # copying a large vocabulary takes seconds, and a file is encoded by two encoders
def with_exact_offsets(tokenizer: Any) -> Any:
    """Return `tokenizer`, or a copy of it whose offsets include the spaces of a token.

    Many byte-level tokenizers exclude them (`trim_offsets`). A token of only spaces then has no position, and an answer
    that begins with one would be trained without it, or not at all.
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


def token_range(tokens: TokenizedText, start: int, end: int, added: Collection[int]) -> tuple[int, int]:
    """Return the range of tokens that have one of the characters from `start` to `end`: first, and one past the last.

    `added`: the ids of added tokens. One that begins before `start` is excluded: it ends a role header and includes the
    spaces after it (`rstrip`), which a model never writes.
    """
    encoding = tokens.encoding
    first = next((token for at in range(start, end) if (token := encoding.char_to_token(at)) is not None), None)
    if first is None:  # the tokenizer drops all of these characters
        return len(tokens.ids), len(tokens.ids)
    last = next(token for at in range(end - 1, start - 1, -1) if (token := encoding.char_to_token(at)) is not None)
    # The tokenizer reports only the first token of a character that has several.
    while last + 1 < len(encoding) and (place := encoding.token_to_chars(last + 1)) is not None and place[0] < end:
        last += 1
    if tokens.ids[first] in added and encoding.token_to_chars(first)[0] < start:
        first += 1
    return int(first), int(last) + 1
