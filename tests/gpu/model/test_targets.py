"""Names in `target_modules`: each matches something, and what it matches can be merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from events.settings import LoraSettings
from gpu.errors import ModelUnusable
from gpu.model.build import build
from gpu.model.targets import attention_names, linear_names, refuse_unmatched, short_names, way_out
from tests.gpu.helpers import settings
from tests.harness.architectures import make_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(make_model(tmp_path_factory.mktemp("llama") / "model", "llama"))


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (("q_proj", "v_prj"), r'names "v_prj".*nearest names are v_proj'),
        (("q_proj", "self_attn"), r'names "self_attn".*Its layers are embed_tokens, q_proj'),
        (("model.layers.9.self_attn.q_proj",), r"nearest names are q_proj"),
        ((), "is empty"),
        ("q_proj", r'is a regular expression.*write a list in keepstep\.toml: target_modules = \["q_proj"\]'),
        (r".*\.nothing", "is a regular expression"),
    ],
)
def test_name_that_matches_no_layer_is_refused_with_the_nearest(llama: Any, targets: Any, says: str) -> None:
    """Whatever else matches."""
    with pytest.raises(ModelUnusable, match=says):
        refuse_unmatched(llama, targets)


@pytest.mark.parametrize(
    "targets",
    [
        "all-linear",
        ("q_proj", "lm_head", "embed_tokens"),
        ("self_attn.q_proj",),
        ("model.layers.0.mlp.up_proj",),
        r"model\.layers\.0\..*_proj",
    ],
)
def test_names_that_match_are_taken(llama: Any, targets: Any) -> None:
    refuse_unmatched(llama, targets)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (("q_proj", "gate_up_proj"), "is one weight of fused experts, not a layer"),
        (("q_proj", "gate"), "gate.weight is one weight of fused experts, not a layer"),
        (("q_proj", "w1", "w3"), r'names "w1"'),
    ],
)
def test_names_of_fused_experts_are_explained(tmp_path: Path, targets: Any, says: str) -> None:
    """In files they are layers, in memory they are one weight: Mixtral."""
    make_model(tmp_path / "model", "mixtral")
    with pytest.raises(ModelUnusable, match=says):
        build(settings(LoraSettings(r=2, target_modules=targets)), tmp_path, CPU)


def test_what_is_adapted_is_counted(tmp_path: Path) -> None:
    make_model(tmp_path / "model", "llama")
    trained = build(settings(LoraSettings(r=2, target_modules=("q_proj", "embed_tokens"))), tmp_path, CPU)
    summary = trained.summary
    assert summary.layers == {"embed_tokens": 1, "q_proj": 2}
    assert summary.parameters == 2 * (262 + 32) + 2 * 2 * (32 + 32)
    assert 0 < summary.share < 0.1


def test_suggested_names_leave_out_the_refused() -> None:
    layers = ["a.q_proj", "b.q_proj", "a.experts", "b.fc"]
    assert short_names(layers) == {"q_proj": 2, "experts": 1, "fc": 1}
    assert way_out(layers, ["a.experts"]).startswith('Set [method] target_modules = ["q_proj", "fc"]')
    assert way_out(layers, layers).startswith("Name other layers")
    assert attention_names(["q_proj", "fc"]) == ["q_proj"]
    assert attention_names(["fc"]) == ["fc"]


def test_suggested_layers_are_the_linear_ones_without_the_head(llama: Any) -> None:
    names = linear_names(llama)
    assert {"q_proj", "down_proj"} <= {*names}
    assert not {"lm_head", "embed_tokens"} & {*names}
