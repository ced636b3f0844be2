"""The fused layer against peft's, which is the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from gpu.kernels.lora import FusedLinear, fuse_adapters
from gpu.kernels.product import onednn_is_available
from gpu.model.held_weights import compute_in_float32
from tests.harness.architectures import make_model


class Layers(torch.nn.Module):  # type: ignore[misc]
    """Two linear layers, one with a bias, and one that no adapter is put on."""

    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(24, 40, bias=True)
        self.down = torch.nn.Linear(40, 24, bias=False)
        self.rest = torch.nn.Linear(24, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.rest(self.down(torch.tanh(self.up(x))))
        return result


def adapted(dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """The same weights each time."""
    torch.manual_seed(1)
    model = get_peft_model(Layers().to(dtype), LoraConfig(r=4, lora_alpha=6, target_modules=["up", "down"], **options))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter, dtype=torch.float32) * 0.1
    compute_in_float32(model)
    model.train()
    return model


def results(model: Any, *, bf16: bool = False, needs_x: bool = True) -> list[torch.Tensor]:
    """Output and all gradients of a batch, with the random numbers of one seed."""
    torch.manual_seed(2)
    x = torch.randn(3, 5, 24, requires_grad=needs_x)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = model(x)
    output.float().square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    found = [output.detach(), *gradients, *([x.grad] if needs_x else [])]
    model.zero_grad()
    return found


@pytest.mark.parametrize(
    "onednn", [False, pytest.param(True, marks=pytest.mark.skipif(not onednn_is_available(), reason="no oneDNN"))]
)
@pytest.mark.parametrize("options", [{}, {"lora_dropout": 0.3}, {"use_rslora": True}])
@pytest.mark.parametrize("needs_x", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_what_peft_computes(
    onednn: bool, options: dict[str, Any], needs_x: bool, dtype: torch.dtype
) -> None:
    model = adapted(dtype, **options)
    plain = results(model, needs_x=needs_x)
    assert fuse_adapters(model, onednn=onednn) == (2, 2)
    fused = results(model, needs_x=needs_x)
    again = results(model, needs_x=needs_x)
    for expected, found, repeated in zip(plain, fused, again, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(found, repeated)


def test_in_bfloat16_it_rounds_as_much_as_peft_does() -> None:
    exact = results(adapted())
    model = adapted()
    plain = results(model, bf16=True)
    fuse_adapters(model, onednn=True)
    fused = results(model, bf16=True)
    for wanted, theirs, ours in zip(exact, plain, fused, strict=True):
        assert ours.dtype == theirs.dtype
        assert _error(ours, wanted) < max(2 * _error(theirs, wanted), 0.01)


def test_without_autocast_it_gives_the_numbers_of_the_frozen_layer() -> None:
    """So the next layer, which is bfloat16 and has no adapter, gets what it takes."""
    torch.manual_seed(1)
    model = get_peft_model(Layers().to(torch.bfloat16), LoraConfig(r=4, target_modules=["up", "down"]))
    model.train()
    x = torch.randn(3, 24, dtype=torch.bfloat16)
    plain = model(x)
    assert fuse_adapters(model, onednn=True) == (2, 2)
    fused = model(x)
    assert fused.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(fused, plain, rtol=0.05, atol=0.05)


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}])
def test_other_kinds_of_adapters_stay_with_peft(options: dict[str, Any]) -> None:
    model = adapted(**options)
    plain = results(model)
    assert fuse_adapters(model, onednn=True) == (0, 2)
    assert all(torch.equal(a, b) for a, b in zip(plain, results(model), strict=True))


def test_without_the_adapter_it_is_the_base() -> None:
    model = adapted()
    fuse_adapters(model, onednn=False)
    x = torch.ones(1, 24)
    with torch.no_grad(), model.disable_adapter():
        bare = model(x)
    torch.testing.assert_close(bare, model.get_base_model().rest(_bare(model, x)).detach())


def _bare(model: Any, x: torch.Tensor) -> torch.Tensor:
    inner = model.get_base_model()
    hidden = torch.tanh(inner.up.base_layer(x))
    result: torch.Tensor = inner.down.base_layer(hidden)
    return result


def test_it_keeps_the_input_and_a_small_product(tmp_path: Any) -> None:
    """What autograd keeps of a layer: peft keeps the output of A and a scaled copy's source too."""
    model = adapted()
    fuse_adapters(model, onednn=False)
    kept: list[tuple[int, ...]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.get_base_model().up(torch.ones(10, 24, requires_grad=True))
    assert sorted(kept) == sorted([(10, 24), (10, 4), (40, 24), (4, 24), (40, 4)])


def test_adapters_on_layers_of_another_type_stay_with_peft(tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(make_model(tmp_path / "model", "gpt2"))
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    fused, all_adapted = fuse_adapters(model, onednn=False)
    assert (fused, all_adapted) == (0, 2)
    assert not any(isinstance(module, FusedLinear) for module in model.modules())
