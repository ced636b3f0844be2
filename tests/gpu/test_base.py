"""The base model's fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from gpu.base import base_files, base_sha256
from gpu.errors import ModelUnusable


def model(directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.json").write_bytes(b"{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    (directory / "README.md").write_bytes(b"hello")
    return directory


def test_it_is_what_sha256sum_would_say(tmp_path: Path) -> None:
    """`sha256sum config.json model.safetensors | sha256sum`."""
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in CONTENTS]
    assert base_sha256(model(tmp_path / "m")) == hashlib.sha256("".join(lines).encode()).hexdigest()


CONTENTS = [("config.json", b"{}"), ("model.safetensors", b"weights")]


def test_other_weights_and_another_config_are_another_model_and_notes_are_not(tmp_path: Path) -> None:
    before = base_sha256(model(tmp_path / "m"))
    (tmp_path / "m" / "README.md").write_bytes(b"more")
    (tmp_path / "m" / "consolidated.safetensors").write_bytes(b"the same in another layout")
    assert base_sha256(tmp_path / "m") == before
    (tmp_path / "m" / "model.safetensors").write_bytes(b"Weights")
    os.utime(tmp_path / "m" / "model.safetensors", ns=(1, 1))
    weights = base_sha256(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_bytes(b"[]")
    os.utime(tmp_path / "m" / "config.json", ns=(1, 1))
    assert len({before, weights, base_sha256(tmp_path / "m")}) == 3


def test_what_was_read_once_is_not_read_again(tmp_path: Path) -> None:
    seen: list[bytes] = []
    first = base_sha256(model(tmp_path / "m"), seen.append)
    assert sorted(seen) == sorted(data for _, data in CONTENTS)
    assert base_sha256(tmp_path / "m", seen.append) == first
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("there", "files"),
    [
        (["model.safetensors", "x.safetensors"], ["config.json", "model.safetensors"]),
        (["x.safetensors", "y.safetensors"], ["config.json", "x.safetensors", "y.safetensors"]),
        (
            ["model.safetensors.index.json", "a.safetensors", "b.safetensors", "x.safetensors"],
            ["a.safetensors", "b.safetensors", "config.json", "model.safetensors.index.json"],
        ),
    ],
)
def test_the_files_are_those_that_transformers_loads(tmp_path: Path, there: list[str], files: list[str]) -> None:
    index = {"metadata": {}, "weight_map": {"w": "a.safetensors", "v": "b.safetensors", "u": "a.safetensors"}}
    for name in ["config.json", *there]:
        (tmp_path / name).write_text(json.dumps(index), encoding="utf-8")
    assert base_files(tmp_path) == files


@pytest.mark.parametrize(
    "index",
    [
        b'{"weight_map": {"a": "../secret.safetensors"}}',
        b'{"weight_map": {"a": "/etc/passwd"}}',
        b'{"weight_map": ' + b"[" * 1_000_000,
        b'{"weight_map": 3}',
        b"\xff",
    ],
)
def test_an_index_that_leads_out_of_the_model_or_is_none_is_refused(tmp_path: Path, index: bytes) -> None:
    """No file of anybody is read by it."""
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(ModelUnusable, match=r"outside of its directory|is damaged"):
        base_files(tmp_path)
