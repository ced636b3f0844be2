"""The chunked loss against the logits of the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from gpu.kernels import head_loss
from gpu.kernels.head_loss import Head, find_head
from gpu.kernels.product import linear
from tests.harness.architectures import ARCHITECTURES, make_model

OTHERS = {"cohere"}
"""Architectures whose logits are more than one product: they are scaled."""


def load(path: Path, architecture: str, **other: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(make_model(path / "model", architecture, **other))
    model.train()
    return model


def losses(model: Any, head: Head) -> list[torch.Tensor]:
    """Loss and gradients of all weights, first by the logits of the model, then by its head."""
    torch.manual_seed(1)
    ids = torch.randint(3, 200, (2, 9))
    positions, labels = torch.tensor([1, 4, 5, 8, 12, 17]), torch.randint(3, 200, (6,))
    found = []
    for logits in (True, False):
        torch.manual_seed(2)
        if logits:
            scores = model(input_ids=ids).logits.flatten(0, 1)[positions]
            loss = cross_entropy(scores.float(), labels, reduction="sum")
        else:
            loss = head.loss(head.decoder(input_ids=ids).last_hidden_state.flatten(0, 1)[positions], labels)
        (loss / 6).backward()
        weights = [torch.zeros(1) if each.grad is None else each.grad for each in model.parameters()]
        found.append(torch.cat([loss.detach()[None], *(each.flatten() for each in weights)]))
        model.zero_grad()
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_architecture_has_the_loss_and_the_gradients_of_its_logits(architecture: str, tmp_path: Path) -> None:
    model = load(tmp_path, architecture)
    head = find_head(model, onednn=False)
    if architecture in OTHERS:
        assert head is None
        return
    assert head is not None
    expected, found = losses(model, head)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "phi"])
def test_chunks_change_nothing_but_rounding(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of gemma2, whose logits are capped; of phi, whose output layer has a bias."""
    model = load(tmp_path, architecture)
    head = find_head(model, onednn=True)
    assert head is not None
    monkeypatch.setattr(head_loss, "CHUNK_ELEMENTS", {"cpu": 1})
    monkeypatch.setattr(head_loss, "ROWS_MIN", 4)
    expected, found = losses(model, head)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found, losses(model, head)[1])


def test_tied_weights_get_the_gradient_of_both_uses(tmp_path: Path) -> None:
    model = load(tmp_path, "llama", tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    head = find_head(model, onednn=False)
    assert head is not None
    expected, found = losses(model, head)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_scaled_logits_are_left_to_the_model(tmp_path: Path) -> None:
    assert find_head(load(tmp_path, "granite", logits_scaling=2.0), onednn=False) is None


def test_logits_of_a_part_of_the_vocabulary_are_left_to_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tmp_path, "llama")
    forward = model.forward

    def cut(**inputs: Any) -> Any:
        found = forward(**inputs)
        found.logits = found.logits[..., :-3]
        return found

    monkeypatch.setattr(model, "forward", cut)
    assert find_head(model, onednn=False) is None


def test_without_gradients_none_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation costs one product, not two."""
    head = find_head(load(tmp_path, "llama"), onednn=False)
    assert head is not None
    products: list[torch.Tensor] = []

    def counted(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        products.append(x)
        return linear(x, *arguments, **options)

    monkeypatch.setattr(head_loss, "linear", counted)
    hidden = torch.zeros(3, 32, requires_grad=True)
    with torch.no_grad():
        head.loss(hidden, torch.tensor([1, 2, 3]))
    assert len(products) == 1


def test_the_trial_leaves_the_model_in_its_mode(tmp_path: Path) -> None:
    model = load(tmp_path, "llama")
    find_head(model, onednn=False)
    assert model.training
    assert model.model.training
