"""Hold frozen weights in bfloat16 and compute with them in float32.

Each large weight is converted when it is used, in the forward and in the backward pass, and the copy is freed at once.
Every bfloat16 number is a float32 number, so the results are those of a float32 model with half of its memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


def compute_in_float32(model: Any) -> None:
    """Let `model` compute in float32, whatever the dtype of its frozen weights.

    The weights of plain linear and embedding layers stay as they are. Other floating-point numbers (norms, biases,
    buffers, layers of other types) become float32: they are small, or their layers do not convert weights.
    """
    for module in model.modules():
        kept = module.weight if type(module) in KINDS else None
        for parameter in module.parameters(recurse=False):
            if parameter is not kept and _is_held(parameter):  # a shared weight stays only if both layers convert it
                parameter.data = parameter.data.float()
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.dtype in HALVES:
                setattr(module, name, buffer.float())
    for module in model.modules():
        if type(module) in KINDS and _is_held(module.weight):
            module.__class__ = KINDS[type(module)]


HALVES = frozenset({torch.bfloat16, torch.float16})


def _is_held(parameter: torch.nn.Parameter) -> bool:
    return parameter.dtype in HALVES and not parameter.requires_grad


class _Product(torch.autograd.Function):  # type: ignore[misc]  # torch is Any here
    """x Wᵀ + b with a frozen W. Autograd alone would keep each layer's float32 copy until its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return functional.linear(x, weight.float(), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,), (gradient,) = ctx.saved_tensors, gradients
        return gradient @ weight.float(), None, None


class HeldLinear(torch.nn.Linear):  # type: ignore[misc]
    """A linear layer, (…, in) to (…, out), whose frozen weight is converted at each use."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return float32."""
        product: torch.Tensor = _Product.apply(input.float(), self.weight, self.bias)
        return product


class HeldEmbedding(torch.nn.Embedding):  # type: ignore[misc]
    """An embedding, (…) to (…, width), of which only the rows that are looked up are converted."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return float32."""
        return super().forward(input).float()


KINDS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.Linear: HeldLinear,
    torch.nn.Embedding: HeldEmbedding,
}
"""By exact type: a subclass may use its weight differently."""
