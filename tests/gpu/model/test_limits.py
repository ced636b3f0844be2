"""What a model takes, by its files: held to what the model itself does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpu.model.limits import UNLIMITED, ModelLimits, find_vocabulary_problem, read_limits
from tests.harness.tiny_model import make_tiny_model, make_tokenizer

SMALL = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
GPT2 = {"vocab_size": 40, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 12}

TABLES: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "openai-gpt": GPT2,
    "ctrl": {**GPT2, "dff": 8},
    "gptj": {**GPT2, "n_embd": 16, "rotary_dim": 4},
    "codegen": {**GPT2, "n_embd": 32, "n_head": 4, "rotary_dim": 4},
    "gpt_neo": {
        **{name: SMALL[name] for name in ("vocab_size", "hidden_size")},
        "num_layers": 1,
        "num_heads": 2,
        "attention_types": [[["global"], 1]],
        "max_position_embeddings": 12,
    },
    "opt": {**SMALL, "ffn_dim": 8, "word_embed_proj_dim": 8, "max_position_embeddings": 12},
    "biogpt": {**SMALL, "max_position_embeddings": 12},
    "roberta": {**SMALL, "max_position_embeddings": 14, "is_decoder": True, "type_vocab_size": 1, "pad_token_id": 1},
    "bert": {**SMALL, "max_position_embeddings": 12, "is_decoder": True},
    "mpt": {"vocab_size": 40, "d_model": 8, "n_layers": 1, "n_heads": 2, "max_seq_len": 12},
}
"""Architectures that take no more than 12 tokens."""

OPEN: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "max_position_embeddings": 12},
    "gpt_neox": {**SMALL, "max_position_embeddings": 12},
    "bloom": {"vocab_size": 40, "hidden_size": 8, "n_layer": 1, "n_head": 2, "seq_length": 12},
    "xglm": {
        "vocab_size": 40,
        "d_model": 8,
        "num_layers": 1,
        "attention_heads": 2,
        "ffn_dim": 8,
        "max_position_embeddings": 12,
    },
}
"""Architectures that take more than they were trained with."""


def made(kind: str, config: dict[str, Any], directory: Path) -> Any:
    """A model of this architecture, and its files."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))
    model.save_pretrained(directory)
    return model.eval()


def takes(model: Any, tokens: int) -> bool:
    import torch

    ids = torch.full((1, tokens), 5)
    try:
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("kind", TABLES)
def test_a_model_with_a_table_of_positions_takes_as_many_tokens_as_we_say(kind: str, tmp_path: Path) -> None:
    model = made(kind, TABLES[kind], tmp_path)
    assert read_limits(tmp_path) == ModelLimits(embedding_rows=40, positions=12)
    assert [takes(model, tokens) for tokens in (12, 13)] == [True, False]
    (tmp_path / "model.safetensors").unlink()  # of a hub's model, whose weights are not here yet
    assert read_limits(tmp_path) == ModelLimits(embedding_rows=40, positions=12)


@pytest.mark.parametrize("kind", OPEN)
def test_a_model_that_computes_positions_takes_more_than_it_was_trained_with(kind: str, tmp_path: Path) -> None:
    assert takes(made(kind, OPEN[kind], tmp_path), 30)
    assert read_limits(tmp_path) == ModelLimits(embedding_rows=40, trained_positions=12)


def test_the_rows_of_the_weights_count_and_not_the_config(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 7}))
    assert read_limits(tmp_path).embedding_rows == 262


def test_scaled_positions_reach_farther(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}
    config = {"model_type": "qwen2", "vocab_size": 9, "max_position_embeddings": 100, "rope_scaling": scaling}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_limits(tmp_path) == ModelLimits(embedding_rows=9, trained_positions=400)


def test_the_part_that_reads_text_counts(tmp_path: Path) -> None:
    text = {"vocab_size": 9, "max_position_embeddings": 64}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "vocab_size": 3, "text_config": text}))
    assert read_limits(tmp_path) == ModelLimits(embedding_rows=9, trained_positions=64)


def test_without_a_config_nothing_is_known(tmp_path: Path) -> None:
    assert read_limits(tmp_path) == UNLIMITED


def test_a_row_has_at_most_as_many_tokens_as_there_are_positions() -> None:
    assert [ModelLimits(positions=64).longest(length) for length in (8, 64, 100)] == [8, 64, 64]
    assert ModelLimits(trained_positions=64).longest(100) == 100


def test_a_tokenizer_beyond_the_embedding_is_reported_with_both_numbers(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    assert find_vocabulary_problem(tmp_path, read_limits(tmp_path)) is None
    larger = make_tokenizer()
    larger.add_tokens(["<think>"])
    larger.save_pretrained(tmp_path)
    says = "the tokenizer has 263 tokens, and the embedding of the model has 262 rows"
    assert find_vocabulary_problem(tmp_path, read_limits(tmp_path)) == (says, False)
    larger.add_special_tokens({"eos_token": "<|new|>"})
    larger.save_pretrained(tmp_path)
    says = "the eos_token of the tokenizer is 263, and the embedding of the model has 262 rows"
    assert find_vocabulary_problem(tmp_path, read_limits(tmp_path)) == (says, True)
    config = json.loads((tmp_path / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": [2, 300]}))
    says = "the eos_token_id of config.json is 300, and the embedding of the model has 262 rows"
    assert find_vocabulary_problem(tmp_path, read_limits(tmp_path)) == (says, True)


def test_an_embedding_that_is_larger_than_the_tokenizer_is_fine(tmp_path: Path) -> None:
    """Many are padded to a multiple of 64."""
    make_tiny_model(tmp_path, vocab_size=320)
    assert find_vocabulary_problem(tmp_path, read_limits(tmp_path)) is None
