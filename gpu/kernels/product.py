"""Products with a frozen weight."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


def onednn_is_available() -> bool:
    """Return True if torch can pass float32 products to oneDNN, and the result is that of its usual library."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    x, weight = torch.arange(12.0).view(3, 4), torch.arange(20.0).view(5, 4)  # whole numbers: every sum is exact
    straight = torch.equal(_onednn(x, weight, None), x @ weight.T)
    return straight and bool(torch.equal(_onednn(x, weight[:4].T, None), x @ weight[:4]))


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, onednn: bool) -> torch.Tensor:
    """Return x Wᵀ + b: (rows, in) and (out, in) to (rows, out). No gradient is kept.

    `onednn`: use oneDNN for float32 on a CPU. torch uses MKL there, which is 10 to 15 % slower on AMD's processors.
    """
    if onednn and x.dtype == torch.float32 and x.device.type == "cpu":
        return _onednn(x, weight, bias)
    product: torch.Tensor = functional.linear(x, weight, bias)
    return product


def _onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    operation: Any = torch.ops.mkldnn._linear_pointwise
    product: torch.Tensor = operation(x, weight, bias, "none", [], "")
    return product
