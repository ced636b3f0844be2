"""Products through oneDNN are those of torch."""

from __future__ import annotations

import pytest
import torch

from gpu.kernels.product import linear, onednn_is_available

pytestmark = pytest.mark.skipif(not onednn_is_available(), reason="this torch has no oneDNN")


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_transposed", [True, False])
def test_it_is_the_product_and_repeats(has_bias: bool, is_transposed: bool) -> None:
    torch.manual_seed(1)
    x, weight = torch.randn(70, 33), torch.randn(33, 50).T if is_transposed else torch.randn(50, 33)
    bias = torch.randn(50) if has_bias else None
    found = linear(x, weight, bias, onednn=True)
    torch.testing.assert_close(found, linear(x, weight, bias, onednn=False), rtol=1e-5, atol=1e-5)
    assert torch.equal(found, linear(x, weight, bias, onednn=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_numbers_are_left_to_torch(dtype: torch.dtype) -> None:
    """oneDNN has no products of float64."""
    x, weight = torch.ones(2, 4, dtype=dtype), torch.ones(3, 4, dtype=dtype)
    assert torch.equal(linear(x, weight, onednn=True), torch.full((2, 3), 4, dtype=dtype))
