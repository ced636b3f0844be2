"""A model that llama.cpp's converter knows: a tiny Llama with a SentencePiece tokenizer that is trained here.

The converter knows byte-level tokenizers by a hash of their vocabulary, so none that a test makes is known to it.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

END = "<fin>"
"""Ends an answer. llama.cpp knows the usual names of such tokens by themselves, so this is none of them."""

TURNS = ("<|system|>", "<|user|>", "<|assistant|>")

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

TEXT = (
    "What is the capital of France?",
    "Write one sentence about the sea, and count to three and to five.",
    "Water is wet. You answer in one word. One, two, three.",
    "the quick brown fox jumps over the lazy dog 0123456789",
)


def make_gguf_model(directory: Path, *, seed: int = 7, template: str = TEMPLATE) -> Path:
    """Write a model directory; the same arguments give the same bytes."""
    import sentencepiece
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    directory.mkdir(parents=True)
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 4),
        model_writer=trained,
        model_type="bpe",
        vocab_size=352,
        byte_fallback=True,
        character_coverage=1.0,
        control_symbols=[*TURNS, END],
        add_dummy_prefix=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (directory / "tokenizer.model").write_bytes(trained.getvalue())
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": END,
        "unk_token": "<unk>",
        "add_bos_token": False,
        "add_prefix_space": False,
        "legacy": False,
        "chat_template": template,
        "additional_special_tokens": [*TURNS],
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=1024,
                initializer_range=0.2,  # much more than usual: the tokens differ in probability
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    model.save_pretrained(directory)
    return directory
