"""MergedTensors weights are compared where a mistake shows: at both ends, as closely as they are rounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gpu.errors import MergeRefused
from gpu.versions.merge import WeightsFile
from gpu.versions.merge_check import ROWS, MergedTensors, check_tensor, first_and_last

COUNT = 3 * ROWS


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a": torch.randn(COUNT, 4), "half": torch.randn(COUNT, 4).to(torch.bfloat16), "scalar": torch.tensor(2.0)}


@pytest.fixture
def merged(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Iterator[MergedTensors]:
    save_file(weights, tmp_path / "model.safetensors")
    with closing(WeightsFile(tmp_path / "model.safetensors")) as file:
        yield MergedTensors([file], None)


def test_same_numbers_pass(merged: MergedTensors, weights: dict[str, torch.Tensor]) -> None:
    """To within the rounding of their kind; a tensor without dimensions too."""
    for name, weight in weights.items():
        check_tensor(merged, name, weight.float(), 0.0)
    check_tensor(merged, "half", weights["half"].float() * (1 + 2**-9), 0.0)


@pytest.mark.parametrize("row", [0, COUNT - 1])
def test_change_of_a_row_at_either_end_is_seen(
    merged: MergedTensors, weights: dict[str, torch.Tensor], row: int
) -> None:
    for name in ("a", "half"):
        other = weights[name].float()
        other[row] *= 1.05
        with pytest.raises(MergeRefused, match=f"the merged {name} differs from"):
            check_tensor(merged, name, other, 0.0)


def test_first_and_last_of_each_kind_are_chosen_in_order() -> None:
    names = ["0.q", "0.k", "1.q", "1.k", "2.q", "norm"]
    assert first_and_last(names, lambda name: name[-1]) == ["0.q", "2.q", "0.k", "1.k", "norm"]
