"""Every tensor of a checkpoint, loaded by a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gpu.artifacts.tensor_check import find_non_finite
from tests.gpu.helpers import CONTENTS, NAME, commit, manifest, safetensors

SHAPES = {"a": (2, 3)}
MOMENTS = {"a.exp_avg": (2, 3), "a.exp_avg_sq": (2, 3), "step": (1,)}


@pytest.mark.parametrize(
    ("weights", "moments", "says"),
    [
        (1.0, 0.0, None),
        (float("nan"), 0.0, "model.safetensors: a is not finite"),
        (1.0, float("inf"), "optimizer.safetensors: a.exp_avg is not finite"),
    ],
)
def test_what_is_not_a_number_is_found(tmp_path: Path, weights: float, moments: float, says: str | None) -> None:
    trained = msgspec.structs.replace(manifest(), parameters=tuple(SHAPES.items()))
    files = {"model.safetensors": safetensors(SHAPES, weights), "optimizer.safetensors": safetensors(MOMENTS, moments)}
    commit(tmp_path, trained, files)
    assert find_non_finite(tmp_path / NAME) == says


def test_what_is_gone_or_no_tensors_at_all_is_said(tmp_path: Path) -> None:
    trained = msgspec.structs.replace(manifest(), parameters=tuple(SHAPES.items()))
    commit(tmp_path, trained, {"model.safetensors": b"nonsense", "optimizer.safetensors": b""})
    assert str(find_non_finite(tmp_path / NAME)).startswith("model.safetensors cannot be read: ")
    assert find_non_finite(tmp_path / "nowhere") == "its directory is missing"


def test_it_is_a_command_that_loads_torch_only_where_there_are_tensors(tmp_path: Path) -> None:
    commit(tmp_path, manifest(), CONTENTS)
    command = [sys.executable, "-P", "-X", "importtime", "-m", "gpu.artifacts.tensor_check", str(tmp_path / NAME)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) is None
    assert "torch" not in ended.stderr
