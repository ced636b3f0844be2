"""Seeding and the fingerprint of the machine."""

from __future__ import annotations

import random

import numpy as np
import torch

from gpu.runtime.determinism import enable_determinism, environment, seed_generators


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), random.random(), float(np.random.rand())


def test_the_same_parts_draw_the_same_and_others_draw_others() -> None:
    seen = []
    for parts in ((1, 2, 0), (1, 2, 1), (1, 3, 0), (2, 2, 0), (1, 2, 0)):
        seed_generators(*parts)
        seen.append(draws())
    assert seen[0] == seen[4]
    assert all(len(set(column[:4])) == 4 for column in zip(*seen, strict=True))


def test_exactness_is_switched_on_without_filling_new_memory() -> None:
    device = enable_determinism(1)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.get_num_threads() == 1
    assert environment(device)["threads"] == "1"
    assert all(isinstance(value, str) and value for value in environment(device).values())
