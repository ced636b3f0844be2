"""Weights in bfloat16 that are computed with in float32: the numbers of float32 weights, in half the memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from gpu.model.held_weights import HeldEmbedding, HeldLinear, compute_in_float32

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "qwen3": {**SMALL, "tie_word_embeddings": True},
    "qwen2": SMALL,  # biases
    "gemma3_text": SMALL,  # embeddings that are scaled, in a separate class
    "phi3": SMALL,
    "gpt2": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2},
    "mixtral": {**SMALL, "num_local_experts": 4},  # experts without layers
}


def made(architecture: str, **lora: Any) -> Any:
    """A small model in bfloat16, with an adapter that has been trained a little."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture])
    base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", **lora))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def loss_and_gradients(model: Any) -> tuple[float, list[torch.Tensor]]:
    model.eval()  # GPT-2 has dropout by default
    ids = torch.arange(24).reshape(2, 12)
    logits = model(input_ids=ids, use_cache=False).logits
    assert logits.dtype == torch.float32
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return float(loss.detach()), list(torch.autograd.grad(loss, trained))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_results_are_those_of_float32_weights(architecture: str) -> None:
    """Loss and every gradient, to the bit."""
    held, plain = made(architecture), made(architecture).float()
    compute_in_float32(held)
    loss, gradients = loss_and_gradients(held)
    expected, theirs = loss_and_gradients(plain)
    assert loss == expected
    assert all(torch.equal(a, b) for a, b in zip(gradients, theirs, strict=True))


def test_dora_too() -> None:
    """It reads the weights of the layer itself. The length of a row is a trained number, so it is float32 already."""
    held, plain = made("llama", use_dora=True), made("llama", use_dora=True).float()
    compute_in_float32(held)
    assert loss_and_gradients(held)[0] == pytest.approx(loss_and_gradients(plain)[0], rel=1e-5)


def test_large_weights_stay_in_bfloat16() -> None:
    """Tied ones stay one tensor. Norms and what is trained are float32."""
    model = made("qwen3")
    compute_in_float32(model)
    kinds = {type(module) for module in model.modules()}
    assert {HeldLinear, HeldEmbedding} <= kinds
    held = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.bfloat16}
    assert held
    assert all(name.endswith(("base_layer.weight", "embed_tokens.weight", "lm_head.weight")) for name in held)
    base = model.get_base_model()
    assert base.lm_head.weight is base.model.embed_tokens.weight


def test_no_copy_of_a_weight_is_kept_for_the_backward_pass() -> None:
    """What autograd saves is smaller than one float32 weight."""
    layer = torch.nn.Linear(512, 512, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    compute_in_float32(layer)
    saved: list[torch.Tensor] = []
    x = torch.randn(2, 512, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):  # type: ignore[func-returns-value]
        layer(x).sum().backward()
    assert [tensor.dtype for tensor in saved] == [torch.bfloat16]


def test_weights_that_are_trained_are_left_alone() -> None:
    layer = torch.nn.Linear(4, 4, dtype=torch.bfloat16)
    compute_in_float32(layer)
    assert type(layer) is torch.nn.Linear
    assert layer.weight.dtype == torch.bfloat16


def test_buffers_become_float32_and_whole_numbers_stay() -> None:
    layer = torch.nn.Module()
    layer.register_buffer("scale", torch.full((2,), 1.5, dtype=torch.bfloat16))
    layer.register_buffer("positions", torch.arange(2))
    compute_in_float32(layer)
    assert torch.equal(layer.scale, torch.full((2,), 1.5))
    assert (layer.scale.dtype, layer.positions.dtype) == (torch.float32, torch.int64)
