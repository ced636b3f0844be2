"""Which tensor on disk holds which weight in memory: prefixes, renames, ties, fused experts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpu.errors import MergeRefused
from gpu.model.layout import read_layout
from tests.harness.architectures import make_model

Tensors = dict[str, torch.Tensor]


def rewritten(directory: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """The same model, its file of weights changed."""
    file = directory / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return directory


def without(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def test_prefix_of_the_base_model_is_found(tmp_path: Path) -> None:
    """GPT-2 on the hub has no `transformer.`, and its linear layers hold (in, out)."""
    base = rewritten(make_model(tmp_path / "model", "gpt2"), without("transformer."))
    found = read_layout(base)
    assert found.locate("transformer.h.0.attn.c_attn.weight") == ("h.0.attn.c_attn.weight", True)
    assert found.locate("transformer.wpe.weight") == ("wpe.weight", False)
    assert found.missing == []


def test_renames_of_an_architecture_are_followed(tmp_path: Path) -> None:
    found = read_layout(make_model(tmp_path / "model", "gpt_neox"))
    assert found.locate("lm_head.weight").tensor == "embed_out.weight"


def test_a_tensor_of_another_shape_is_no_place_for_a_weight(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    base = make_model(tmp_path / "model", "llama")
    assert read_layout(base).locate(name).tensor == name
    rewritten(base, lambda tensors: {**tensors, name: tensors[name][:-1].clone()})
    with pytest.raises(MergeRefused):
        read_layout(base).locate(name)


def test_tied_weights_have_no_separate_place(tmp_path: Path) -> None:
    """Neither the one that is stored nor the other: a change of one would change both."""
    found = read_layout(make_model(tmp_path / "model", "llama", tie_word_embeddings=True))
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        with pytest.raises(MergeRefused, match="are tied"):
            found.locate(name)
        assert found.tensor(name) == "model.embed_tokens.weight"


def test_tied_weights_that_are_both_stored_have_a_place_each(tmp_path: Path) -> None:
    base = make_model(tmp_path / "model", "llama", tie_word_embeddings=True)
    head = {"lm_head.weight": load_file(base / "model.safetensors")["model.embed_tokens.weight"].clone()}
    found = read_layout(rewritten(base, lambda tensors: {**tensors, **head}))
    assert found.copies == (("lm_head.weight", "model.embed_tokens.weight"),)
    assert found.locate("lm_head.weight").tensor == "lm_head.weight"


def test_fused_experts_are_named_with_their_parts(tmp_path: Path) -> None:
    found = read_layout(make_model(tmp_path / "model", "mixtral"))
    with pytest.raises(MergeRefused, match=r"builds \S+gate_up_proj from 8 tensors"):
        found.locate("model.layers.0.mlp.experts.gate_up_proj")
    assert found.locate("model.layers.0.mlp.gate.weight").tensor == "model.layers.0.block_sparse_moe.gate.weight"


def test_what_the_model_does_not_have_is_unread_and_what_the_files_lack_is_missing(tmp_path: Path) -> None:
    base = rewritten(
        make_model(tmp_path / "model", "llama"),
        lambda tensors: {
            "extra.weight": torch.zeros(2),
            **{name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"},
        },
    )
    found = read_layout(base)
    assert (found.unread, found.missing) == (("extra.weight",), ["model.norm.weight"])
    with pytest.raises(MergeRefused, match=r"have no tensor for model\.norm\.weight"):
        found.locate("model.norm.weight")
    with pytest.raises(MergeRefused, match="have no tensor"):
        found.locate("no.such.weight")


def test_random_numbers_stay_as_they_are(tmp_path: Path) -> None:
    """A layout is looked up in the middle of training."""
    base = make_model(tmp_path / "model", "gpt2")
    before = torch.get_rng_state()
    read_layout(base)
    assert torch.equal(before, torch.get_rng_state())
