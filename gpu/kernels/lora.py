"""A linear layer with a LoRA adapter as one operation.

peft computes x Wᵀ, then (x Aᵀ) Bᵀ, then a scaled copy of it, then a sum: three tensors of the size of the output, in
both directions. Here the adapter's product is added to the output in place, and nothing is kept but the input and its
product with A. With s = scaling, and d = dropout(x):

    y = x Wᵀ + b + s (d Aᵀ) Bᵀ
    ∂B = s gᵀ (d Aᵀ)    h = s g B    ∂A = hᵀ d    ∂x = g W    ∂d = h A
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLinear

from gpu.kernels.product import linear
from gpu.model.held_weights import HeldLinear

ADAPTER = "default"
"""The name that peft gives to the only adapter."""


def fuse_adapters(model: Any, *, onednn: bool) -> tuple[int, int]:
    """Let the adapted layers of `model` compute in one operation. Return the number of these, and of all adapted ones.

    A layer that differs from plain LoRA on a frozen linear layer (DoRA, a bias in its factors, weights in 4 bits, a
    layer of another type) stays as it is.
    """
    layers = [module for module in model.modules() if hasattr(module, "lora_A") and hasattr(module, "base_layer")]
    fused = [module for module in layers if _is_plain(module)]
    for module in fused:
        module.__class__ = FusedLinear
        module.onednn = onednn
    return len(fused), len(layers)


def _is_plain(module: Any) -> bool:
    if type(module) not in {PeftLinear, FusedLinear} or type(module.base_layer) not in {torch.nn.Linear, HeldLinear}:
        return False
    if list(module.lora_A) != [ADAPTER] or ADAPTER in module.lora_variant or module.fan_in_fan_out:
        return False
    factors = (module.lora_A[ADAPTER], module.lora_B[ADAPTER])
    base = module.base_layer
    return not (
        any(factor.bias is not None for factor in factors)
        or any(parameter.requires_grad for parameter in base.parameters())
        or module.merged
    )


class FusedLinear(PeftLinear):  # type: ignore[misc]  # peft is Any here
    """peft's linear layer, (…, in) to (…, out), in one operation."""

    onednn = False
    """Use oneDNN (`gpu.kernels.product.linear`)."""

    def forward(self, x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        """Return the same as peft, to rounding."""
        if arguments or options or self.disable_adapters or self.merged or self.active_adapters != [ADAPTER]:
            plain: torch.Tensor = super().forward(x, *arguments, **options)
            return plain
        dropout, device = self.lora_dropout[ADAPTER], x.device.type
        autocasts = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocasts else self.lora_A[ADAPTER].weight.dtype
        is_dropped = self.training and not isinstance(dropout, torch.nn.Identity)
        # As peft: without autocast, the numbers that the frozen layer gives. `HeldLinear` gives float32.
        given = dtype if autocasts or isinstance(self.base_layer, HeldLinear) else x.dtype
        with torch.autocast(device, enabled=False):
            x = x.to(dtype)
            result: torch.Tensor = _LoraLinear.apply(
                x,
                dropout(x) if is_dropped else None,
                self.base_layer.weight,
                self.base_layer.bias,
                self.lora_A[ADAPTER].weight,
                self.lora_B[ADAPTER].weight,
                self.scaling[ADAPTER],
                self.onednn,
            )
        return result.to(given)


class _LoraLinear(torch.autograd.Function):  # type: ignore[misc]  # torch is Any here
    """(…, in) to (…, out), in the dtype of x. A and B are float32, and so are their gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
        onednn: bool,
    ) -> torch.Tensor:
        rows = x.flatten(0, -2)
        adapted = rows if dropped is None else dropped.flatten(0, -2)
        down, up = a.to(x.dtype), b.to(x.dtype)
        inner = linear(adapted, down, onednn=onednn)
        result = linear(rows, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), onednn=onednn)
        result.addmm_(inner, up.T, alpha=scaling)
        ctx.save_for_backward(adapted, inner, weight, a, b)
        ctx.shape, ctx.scaling, ctx.onednn, ctx.is_dropped = x.shape, scaling, onednn, dropped is not None
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        adapted, inner, weight, a, b = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        dtype, onednn = gradient.dtype, ctx.onednn
        down, up = a.to(dtype), b.to(dtype)
        of_inner = linear(gradient, up.T, onednn=onednn).mul_(ctx.scaling)
        of_up = (gradient.T @ inner).mul_(ctx.scaling).to(b.dtype)
        of_down = linear(of_inner.T, adapted.T, onednn=onednn).to(a.dtype)
        of_x = of_dropped = None
        if ctx.needs_input_grad[0]:
            of_x = linear(gradient, weight.to(dtype).T, onednn=onednn)
            if not ctx.is_dropped:
                of_x.addmm_(of_inner, down)
            of_x = of_x.view(ctx.shape)
        if ctx.is_dropped and ctx.needs_input_grad[1]:
            of_dropped = linear(of_inner, down.T, onednn=onednn).view(ctx.shape)
        return of_x, of_dropped, None, None, of_down, of_up, None, None
