"""Rows become the tensors of a micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from gpu.data.plan.store import Tokens, TokenWriter
from gpu.model.build import TrainedModel
from gpu.training.collate import Inputs, collate
from tests.gpu.data.plan.test_store import chunk

CPU = torch.device("cpu")


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Tokens]:
    """Pieces of (ids, trained)."""

    def store(*pieces: tuple[list[int], list[int]]) -> Tokens:
        with TokenWriter(tmp_path) as writer:
            writer.append(chunk(*((1, ids, trained) for ids, trained in pieces)))
        return Tokens(tmp_path)

    return store


def test_rows_are_padded_at_the_right_and_targets_are_the_next_tokens(stored: Callable[..., Tokens]) -> None:
    tokens = stored(([9, 9], [0, 1]), ([11, 12, 13, 14], [0, 0, 1, 1]), ([21, 22], [0, 1]))
    inputs = collate(tokens, ((1,), (2,)), CPU)
    assert inputs.input_ids.tolist() == [[11, 12, 13, 14], [21, 22, 0, 0]]
    assert inputs.attention_mask is not None
    assert inputs.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert inputs.position_ids is None
    assert inputs.columns.tolist() == [0, 1, 2]
    assert inputs.targets.tolist() == [[-100, 13, 14], [22, -100, -100]]


def test_logits_are_computed_only_for_trained_tokens(stored: Callable[..., Tokens]) -> None:
    inputs = collate(stored(([1, 2, 3, 4, 5], [0, 0, 1, 0, 1])), ((0,),), CPU)
    assert inputs.columns.tolist() == [1, 3]
    assert inputs.targets.tolist() == [[3, 5]]


def test_packed_rows_have_separate_positions_and_targets_never_cross_rows(
    stored: Callable[..., Tokens],
) -> None:
    tokens = stored(([11, 12, 13], [0, 1, 1]), ([21, 22], [0, 1]), ([31], [0]), ([41, 42], [0, 1]))
    inputs = collate(tokens, ((0, 1, 2), (3,)), CPU, packing=True)
    assert inputs.input_ids.tolist() == [[11, 12, 13, 21, 22, 31], [41, 42, 0, 0, 0, 0]]
    assert inputs.attention_mask is None
    assert inputs.position_ids is not None
    assert inputs.position_ids.tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 0, 1, 2, 3]]
    assert inputs.columns.tolist() == [0, 1, 3]
    assert inputs.targets.tolist() == [[12, 13, 22], [42, -100, -100]]


LENGTHS = (23, 5, 31, 1, 17, 9, 2)
PACKED = ((2, 3, 1), (0, 5, 6), (4,))
APART = tuple((row,) for row in range(len(LENGTHS)))


def loss_and_gradients(model: Any, inputs: Inputs) -> tuple[float, dict[str, torch.Tensor]]:
    trained = TrainedModel(model, CPU, dict(model.named_parameters()), {}, "", takes_columns=True)
    model.zero_grad()
    logits = trained.logits(inputs)
    loss = cross_entropy(logits.flatten(0, 1).float(), inputs.targets.flatten(), reduction="sum")
    loss.backward()
    return float(loss), {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gpt2"])
def test_packed_and_unpacked_rows_have_the_same_loss_and_the_same_gradients(
    tmp_path: Path, family: str, attention: str, stored: Callable[..., Tokens]
) -> None:
    """Apart from rounding; for rotary and trained positions, full attention and a window shorter than a row."""
    draw = torch.Generator().manual_seed(5)
    tokens = stored(
        *(
            (torch.randint(3, 90, (length,), generator=draw).tolist(), [0, *(at % 3 > 0 for at in range(length - 1))])
            for length in LENGTHS
        )
    )
    model = _model(family, attention)
    packed = loss_and_gradients(model, collate(tokens, PACKED, CPU, packing=True))
    apart = loss_and_gradients(model, collate(tokens, APART, CPU))
    mixed = loss_and_gradients(model, _running(collate(tokens, PACKED, CPU, packing=True)))
    assert packed[0] == pytest.approx(apart[0], rel=1e-6)
    assert abs(mixed[0] - apart[0]) > 1e-4 * apart[0]
    for name, gradient in apart[1].items():
        assert torch.allclose(packed[1][name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())), name


def _running(inputs: Inputs) -> Inputs:
    """As if each sequence were one row."""
    assert inputs.position_ids is not None
    running = torch.arange(inputs.input_ids.shape[1]).expand_as(inputs.position_ids)
    return inputs._replace(position_ids=running)


def _model(family: str, attention: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {
        "llama": {"num_key_value_heads": 2, "intermediate_size": 64},
        "qwen2": {"num_key_value_heads": 2, "intermediate_size": 64},
        "mistral": {"num_key_value_heads": 2, "intermediate_size": 64, "sliding_window": 6},
        "gpt2": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    }
    config = AutoConfig.for_model(family, **sizes, **more[family], initializer_range=0.3)
    config.use_cache = False
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention).float().train()
