"""Tiny random models of many architectures, as files that keepstep trains from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.harness.tiny_model import make_tokenizer

USUAL: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
HEADS = {**USUAL, "head_dim": 8}
EXPERTS = {**USUAL, "num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}

ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "llama": USUAL,
    "mistral": USUAL,
    "qwen2": USUAL,
    "qwen3": HEADS,
    "gemma": HEADS,
    "gemma2": HEADS,
    "gemma3_text": HEADS,
    "gemma4_text": {**HEADS, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 262},
    "phi": USUAL,
    "phi3": USUAL,
    "stablelm": USUAL,
    "starcoder2": USUAL,
    "olmo": USUAL,
    "olmo2": USUAL,
    "cohere": USUAL,
    "granite": USUAL,
    "apertus": USUAL,
    "smollm3": USUAL,
    "glm4": HEADS,
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "word_embed_proj_dim": 32,
    },
    "gpt2": GPT,
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 512,
    },
    "gpt_neox": {**USUAL, "num_key_value_heads": 4},
    "gptj": {**GPT, "rotary_dim": 4},
    "gpt_bigcode": GPT,
    "codegen": {**GPT, "rotary_dim": 4},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 512},
    "mixtral": {**USUAL, "num_local_experts": 4},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**EXPERTS, "head_dim": 8},
    "olmoe": EXPERTS,
    "granitemoe": {**USUAL, "num_local_experts": 4},
    "phimoe": {**USUAL, "num_local_experts": 4},
    "deepseek_v3": {
        **USUAL,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "moe_intermediate_size": 16,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
    },
    "mamba": {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2},
    "gpt_oss": {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2},
    "nemotron": USUAL,
    "persimmon": USUAL,
    "exaone4": HEADS,
    "ernie4_5": HEADS,
    "hunyuan_v1_dense": HEADS,
    "gemma3": {
        "text_config": {**HEADS, "vocab_size": 262},
        "vision_config": {**USUAL, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4,
        "tie_word_embeddings": True,
    },
    "lfm2": {**USUAL, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
}


def make_model(directory: Path, architecture: str, *, dtype: str = "float32", seed: int = 7, **other: Any) -> Path:
    """Write a tiny model of `architecture` with a tokenizer; the same arguments give the same bytes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer()
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(
        architecture, **{"vocab_size": len(tokenizer), **special, **ARCHITECTURES[architecture], **other}
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for name, buffer in model.named_buffers():
            if name in model.state_dict() and buffer.is_floating_point():
                buffer.mul_(1.5)  # not what the architecture begins with: a copy that loses it is another model
    model.to(getattr(torch, dtype)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
