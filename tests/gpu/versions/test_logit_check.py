"""A merged model that does not load completely is refused, whatever its logits are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpu.errors import MergeRefused
from gpu.versions.logit_check import Reference, logit_distance
from tests.harness.tiny_model import make_tiny_model

Tensors = dict[str, torch.Tensor]


def add_one(tensors: Tensors) -> None:
    tensors["model.layers.0.more.weight"] = torch.zeros(2)


def lose_one(tensors: Tensors) -> None:
    tensors.pop("model.layers.1.mlp.up_proj.weight")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (add_one, r"model.layers.0.more.weight is among its unexpected keys"),
        (lose_one, r"model.layers.1.mlp.up_proj.weight is among its missing keys"),
    ],
)
def test_a_model_with_other_tensors_is_refused(change: Callable[[Tensors], None], says: str, tmp_path: Path) -> None:
    """Tensors that the reference has too, and that transformers ignores there, are allowed."""
    base, model = make_tiny_model(tmp_path / "base"), make_tiny_model(tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MergeRefused, match=says):
        logit_distance(model, Reference(base))
    if change is add_one:
        assert logit_distance(model, Reference(model)) == 0.0
