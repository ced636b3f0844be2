"""Tokenizers that put a space before each text, as SentencePiece does, made again in each test."""

from __future__ import annotations

from typing import Any, Literal

Kind = Literal["prepend", "always", "first", "bytes"]
"""prepend  Llama-2, as converted from SentencePiece: its normalizer puts `▁` before each text
always   Mistral, TinyLlama: a Metaspace pre-tokenizer, before each text and after each special token
first    the same, before the first text only
bytes    byte-level with `add_prefix_space`; like GPT-2's, its offsets leave out the spaces of a token
"""

SPECIAL = ("<unk>", "<s>", "</s>")

MERGES = ("s t", "i s", "_ T", "_T h", "_Th e", "T h", "Th e", "_ _", "_ 4", "_ is", "_ a", ". \n", "\n \n")
"""`_` is the sign for a space. `s t` comes before `i s`: "ist" has another first token than "is"."""


def make_spaced_tokenizer(kind: Kind, template: str | None = None) -> Any:
    """A tokenizer of one token a character (or byte) and MERGES, which puts `<s>` before each text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    space, line_break = ("Ġ", "Ċ") if kind == "bytes" else ("▁", "\n")
    merges = [tuple(merge.replace("_", space).replace("\n", line_break).split(" ")) for merge in MERGES]
    if kind == "bytes":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        alphabet = [*(f"<0x{byte:02X}>" for byte in range(256)), space, line_break, *map(chr, range(33, 127))]
    pieces = [*SPECIAL, *alphabet, *("".join(merge) for merge in merges)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    inner = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=kind != "bytes")
    )
    begins = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    if kind == "bytes":
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
        inner.decoder = decoders.ByteLevel()
        inner.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), begins])
    else:
        if kind == "prepend":
            inner.normalizer = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
        else:
            inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
        inner.decoder = decoders.Sequence(
            [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        inner.post_processor = begins
    inner.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        chat_template=template,
    )
