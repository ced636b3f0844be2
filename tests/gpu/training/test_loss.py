"""The loss of a micro-batch."""

from __future__ import annotations

import pytest
import torch

from gpu.training.loss import summed_loss
from tests.gpu.helpers import Home, settings
from tests.gpu.training.test_evaluate import standing
from tests.harness.tiny_model import make_rows


def test_it_is_the_sum_over_rows_and_has_a_gradient(home: Home) -> None:
    """However many stand together; padding counts nothing."""
    how = settings()
    trained, tokens = standing(home, how, make_rows(6))
    trained.model.eval()
    together = summed_loss(trained, tokens, ((0,), (1,), (2,)), how)
    alone = [float(summed_loss(trained, tokens, ((row,),), how).detach()) for row in range(3)]
    assert together.requires_grad
    assert float(together.detach()) == pytest.approx(sum(alone), rel=1e-5)


def test_it_runs_in_the_arithmetic_of_the_model_and_is_float32(home: Home) -> None:
    """bf16 rounds; the sum does not."""
    how = settings(precision="bf16")
    trained, tokens = standing(home, how, make_rows(6))
    trained.model.eval()
    rounded = summed_loss(trained, tokens, ((0,), (1,)), how)
    trained.arithmetic = "fp32 instead of bf16"
    whole = summed_loss(trained, tokens, ((0,), (1,)), how)
    assert rounded.dtype == torch.float32
    assert rounded != whole
    assert float(rounded.detach()) == pytest.approx(float(whole.detach()), rel=0.02)
