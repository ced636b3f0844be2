"""The size of a model is read from its files, and equals that of the model that is built."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from events.settings import FullSettings, JobSettings, LoraSettings, MethodSettings, ModelSettings, QloraSettings
from gpu.model.build import build
from gpu.model.training_memory import (
    CHUNK_BYTES,
    LOGIT_COPIES,
    MemoryPlan,
    ModelShape,
    estimate_memory,
    load_shape,
    plan_memory,
    read_shape,
)
from tests.gpu.helpers import Home, settings

CPU = torch.device("cpu")
METHODS = (
    LoraSettings(r=4),
    LoraSettings(r=4, use_dora=True),
    LoraSettings(r=2, target_modules=("q_proj", "down_proj")),
    LoraSettings(r=2, target_modules=r".*\.(k|v)_proj"),
    FullSettings(),
)
SIZE = ModelShape(
    parameters=1000,
    trained=100,
    quantized=0,
    layers=2,
    hidden=10,
    mlp=40,
    queries=10,
    keys=5,
    vocabulary=50,
)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_trained_parameters_are_those_of_the_model_that_is_built(home: Home, method: MethodSettings) -> None:
    built = build(settings(method), home.path, CPU)
    found = read_shape(home.path / "model", method)
    assert found is not None
    assert found.trained == sum(each.numel() for each in built.parameters.values())
    config = built.model.config
    assert (found.layers, found.hidden, found.mlp) == (
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
    )
    assert (found.queries, found.keys, found.positions) == (32, 16, 512)


def test_only_qlora_quantizes(home: Home) -> None:
    lora, qlora = (read_shape(home.path / "model", method) for method in (LoraSettings(), QloraSettings()))
    assert lora is not None
    assert qlora is not None
    assert lora.quantized == 0
    assert 0 < qlora.quantized < qlora.parameters


@pytest.mark.parametrize("content", [None, "{}", '{"hidden_size": 8}', "not JSON"])
def test_a_model_without_known_sizes_has_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    how = replace(settings(LoraSettings()), model=ModelSettings(path=str(tmp_path)))
    assert load_shape(how, tmp_path) is None


def test_frozen_weights_have_no_gradients_and_trained_ones_sixteen_bytes_each() -> None:
    lora = estimate_memory(SIZE, settings(LoraSettings()), 0, on_cpu=False)
    assert (lora.weights_bytes, lora.trained_bytes, lora.gradients_bytes, lora.optimizer_bytes) == (4000, 400, 400, 800)
    full = estimate_memory(replace(SIZE, trained=1000), settings(FullSettings()), 0, on_cpu=False)
    assert full.trained_bytes + full.gradients_bytes + full.optimizer_bytes == 16 * 1000


def test_activations_grow_with_the_positions_and_dtypes_are_halved() -> None:
    how = settings(LoraSettings())
    one, ten = (estimate_memory(SIZE, _plain(how), tokens, on_cpu=True) for tokens in (100, 1000))
    assert ten.activations_bytes == 10 * one.activations_bytes > 0
    assert ten.weights_bytes == one.weights_bytes
    assert one.total_bytes == sum(getattr(one, name) for name in one.__struct_fields__)
    half = replace(how, model=replace(how.model, dtype="bfloat16"))
    assert estimate_memory(SIZE, half, 100, on_cpu=True).weights_bytes == 2 * 1000
    four = replace(SIZE, quantized=800)
    assert estimate_memory(four, how, 100, on_cpu=True).weights_bytes == 4 * 200 + 450


def _plain(how: JobSettings) -> JobSettings:
    return replace(how, training=replace(how.training, kernels="plain"))


def test_the_kernels_keep_the_logits_of_one_chunk() -> None:
    how, large = settings(LoraSettings()), replace(SIZE, vocabulary=100_000)
    plain, fused = (estimate_memory(large, each, 10_000, on_cpu=True) for each in (_plain(how), how))
    assert fused.logits_bytes < plain.logits_bytes / 10
    assert fused.logits_bytes == LOGIT_COPIES * CHUNK_BYTES[True]
    assert estimate_memory(replace(large, vocabulary=0), how, 10_000, on_cpu=True).logits_bytes == 0


def test_gradient_checkpointing_is_planned_if_the_step_is_too_large() -> None:
    how, deep = settings(LoraSettings()), replace(SIZE, layers=40)

    def planned(wanted: str, usable_bytes: float) -> MemoryPlan:
        training = replace(how.training, gradient_checkpointing=wanted)
        return plan_memory(deep, replace(how, training=training), 100_000, on_cpu=True, usable_bytes=usable_bytes)

    large = planned("off", 0.0)
    assert not large.checkpoints
    assert not planned("auto", large.without_bytes).checkpoints
    small = planned("auto", large.without_bytes - 1.0)
    assert small.checkpoints
    assert small == planned("on", math.inf)
    assert small.memory.total_bytes < small.without_bytes == large.memory.total_bytes
