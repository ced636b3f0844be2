"""Paths for libraries that accept only UTF-8."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpu.runtime.library_paths import library_path


def test_a_file_below_a_name_of_any_bytes_can_be_loaded(tmp_path: Path) -> None:
    """The library refuses the path itself; this is what the second path is for."""
    directory = tmp_path / os.fsdecode(b"caf\xe9") / "plain" / os.fsdecode(b"\xff")
    directory.mkdir(parents=True)
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").rename(directory / "w.safetensors")
    with pytest.raises(Exception, match="UTF-8"):
        load_file(directory / "w.safetensors")
    assert load_file(library_path(directory / "w.safetensors"))["w"].tolist() == [1.0, 1.0]
    assert library_path(directory).samefile(directory)


def test_an_ordinary_path_stays_as_it_is(tmp_path: Path) -> None:
    """Messages and saved configs then show the path that the user knows."""
    assert library_path(tmp_path / "ü") == tmp_path / "ü"
