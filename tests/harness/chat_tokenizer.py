"""Tokenizers for the chat templates of real models: byte-level, with a few merges, made again in each test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MERGES = ("Ċ Ċ", "Ġ Ġ", "Ġ t", "h e", "Ġt he", "Ġ a", "i n", "o r", "Ċ Ġ", "s t", ". Ċ")
"""Some of what a trained tokenizer has; with `Ċ` (a line break) and `Ġ` (a space), where turns meet."""


def make_chat_tokenizer(template: str | None, special: Sequence[str], *, bos: str | None, eos: str) -> Any:
    """A tokenizer with one token a byte, MERGES, and the special tokens; `eos` pads, too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
    merges = [(left, right) for left, right in (merge.split(" ") for merge in MERGES)]
    inner = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(pieces)}, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=bos, eos_token=eos, pad_token=eos, chat_template=template
    )
