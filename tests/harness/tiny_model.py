"""A model small enough to be made in each test: a Llama of two layers, a byte-level tokenizer, a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PLAIN_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Only appends, and does not say what the assistant's part is."""

MARKED_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}{% else %}{{ message['content'] }}<|end|>"
    "{% endif %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Says itself what the assistant's part is."""

UNSTABLE_TEMPLATE = "{{ messages | length }}" + PLAIN_TEMPLATE
"""Writes the beginning differently for each number of messages."""

SPECIAL = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def make_tokenizer(template: str | None = PLAIN_TEMPLATE) -> Any:
    """A tokenizer with one token a byte, and the six of SPECIAL."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<|pad|>",
        bos_token="<|begin|>",
        eos_token="<|end|>",
        chat_template=template,
    )


def make_tiny_model(directory: Path, *, template: str | None = PLAIN_TEMPLATE, seed: int = 7, **config: Any) -> Path:
    """Write a model directory; the same arguments give the same bytes. `config` overrides LlamaConfig's fields."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(template)
    defaults = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**defaults, **config}))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


EMPTY_SAFETENSORS = (2).to_bytes(8, "little") + b"{}"
"""A valid file of no tensors."""


def make_model_files(directory: Path, **config: Any) -> Path:
    """Write the files of a model without torch: nothing is wrong with their names, and nothing can be loaded."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", **config}), encoding="utf-8")
    (directory / "model.safetensors").write_bytes(EMPTY_SAFETENSORS)
    (directory / "tokenizer.json").write_text('{"model": {"vocab": {}}}', encoding="utf-8")
    return directory


def make_rows(count: int, start: int = 0) -> bytes:
    """A data file of `count` questions and answers, of different lengths, numbered from `start`."""
    rows = (
        {"prompt": f"What is {number} and {number * 7 % 13}?", "completion": "It is not much. " * (1 + number % 3)}
        for number in range(start, start + count)
    )
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
