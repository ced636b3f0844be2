"""The limit of a loss spike: a table of cases."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from gpu.training.loss_spike import LOSSES_MIN, spike_threshold

FLAT = [2.0] * 30
NOISY = [2.0, 2.5, 1.5, 2.2, 1.8] * 8
"""Median 2.0; half of them are within 0.2 of it."""


@pytest.mark.parametrize(
    ("losses", "spike", "window", "expected"),
    [
        (NOISY, 0.0, 64, None),
        (NOISY[: LOSSES_MIN - 1], 20.0, 64, None),
        (NOISY, 20.0, 64, 2.0 + 20 * 0.2),
        (FLAT, 20.0, 64, 2.0 + 20 * 0.02),
        ([9.0] * 50 + NOISY, 20.0, 40, 6.0),
        ([*NOISY, 1e9, 1e9], 20.0, 64, 6.0),
        ([0.0] * 30, 20.0, 64, 0.0),
        ([], 20.0, 64, None),
    ],
    ids=[
        "off",
        "too few to know their spread",
        "deviations above the median",
        "losses that hardly differ: a hundredth of the median",
        "older ones than the window do not count",
        "outliers among them move it not",
        "losses of zero",
        "the first step",
    ],
)
def test_the_threshold(losses: list[float], spike: float, window: int, expected: float | None) -> None:
    """Of the median and the median distance from it."""
    found = spike_threshold(losses, spike, window)
    assert found == pytest.approx(expected, rel=1e-9) if expected is not None else found is None


def test_ordinary_noise_is_no_spike() -> None:
    """A falling loss with the long tail of small batches, twenty thousand steps of it: at 20 nothing stops it."""
    draw = random.Random(1)
    for _ in range(10):
        losses: list[float] = []
        for step in range(2000):
            loss = (1.0 + 2.0 / (1 + step / 50)) * draw.lognormvariate(0.0, 0.35)
            limit = spike_threshold(losses, 20.0, 64)
            assert limit is None or loss <= limit
            losses = [*losses[-63:], loss]


def test_it_falls_with_the_losses() -> None:
    """What was ordinary at the beginning may be a spike at the end."""
    losses = [4.0 * 0.98**step for step in range(200)]
    limits = [spike_threshold(losses[:end], 5.0, 16) or 0.0 for end in range(LOSSES_MIN, 200)]
    assert all(later < earlier for earlier, later in pairwise(limits))
