"""The size of a model is read from its files."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from gpu.model.size import read_size
from tests.harness.tiny_model import make_model_files, make_tiny_model


def test_parameters_are_those_of_the_weights(tmp_path: Path) -> None:
    size = read_size(make_tiny_model(tmp_path / "model"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert size.parameters == model.num_parameters()
    assert (size.width, size.layers, size.vocabulary, size.positions) == (32, 2, 262, 512)


@pytest.mark.parametrize(
    ("dtype", "parameters"), [({"dtype": "float32"}, 250), ({"torch_dtype": "bfloat16"}, 500), ({}, 500)]
)
def test_weights_on_the_hub_are_counted_by_their_size(tmp_path: Path, dtype: dict[str, str], parameters: int) -> None:
    model = make_model_files(tmp_path / "model", n_embd=8, n_layer=3, vocab_size=11, n_positions=64, **dtype)
    (model / "model.safetensors").unlink()
    size = read_size(model, weights_bytes=1000)
    assert (size.parameters, size.width, size.layers, size.vocabulary, size.positions) == (parameters, 8, 3, 11, 64)


def test_config_that_says_nothing_gives_no_size(tmp_path: Path) -> None:
    size = read_size(make_model_files(tmp_path / "model"))
    assert (size.parameters, size.width, size.layers, size.vocabulary, size.positions) == (0, 0, 0, 0, 0)
