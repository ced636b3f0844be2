"""The header of a safetensors file, none of it trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpu.artifacts.tensors import Tensor, find_mismatch, read_header


def file(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(begin: int, end: int, *shape: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


WHOLE = {"__metadata__": {"format": "pt"}, "b": entry(8, 12, 1), "a": entry(0, 8, 2, 1), "none": entry(12, 12, 0)}


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    """By the library itself."""
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(()), "c": torch.zeros(1).bfloat16()}, tmp_path / "t")
    found = {name: (each.dtype, each.shape) for name, each in read_header(tmp_path / "t").items()}
    assert found == {"a": ("F32", (2, 3)), "b": ("F32", ()), "c": ("BF16", (1,))}


def test_a_header_is_read_without_the_numbers(tmp_path: Path) -> None:
    found = read_header(file(tmp_path / "t", WHOLE, bytes(12)))
    assert found["a"] == Tensor(dtype="F32", shape=(2, 1), data_offsets=(0, 8))
    assert set(found) == {"a", "b", "none"}


@pytest.mark.parametrize(
    ("header", "data", "length", "says"),
    [
        (b"", b"", 0, "cannot be 0 bytes"),
        (b"{}", b"", 2**63, "cannot be"),
        (b"{}", b"", 3, "cannot be 3 bytes"),
        (b"{]", b"", None, "damaged"),
        (b"[]", b"", None, "damaged"),
        (b'{"\xff": 1}', b"", None, "damaged"),
        ({"a": {"dtype": "F32"}}, b"", None, "damaged"),
        ({"a": entry(0, 4, -1)}, bytes(4), None, "damaged"),
        ({"a": entry(0, 4, 2**70)}, bytes(4), None, "damaged"),
        ({"a": entry(0, 4, 1, dtype="X9")}, bytes(4), None, "unknown kind"),
        ({"a": entry(0, 4, 2)}, bytes(4), None, "place of a"),
        ({"a": entry(4, 8, 1)}, bytes(8), None, "place of a"),
        ({"a": entry(0, 4, 1), "b": entry(0, 4, 1)}, bytes(4), None, "place of b"),
        ({"a": entry(0, 4, 1)}, bytes(3), None, "have 4 bytes"),
        ({"a": entry(0, 4, 1)}, bytes(5), None, "have 4 bytes"),
        ({}, bytes(1), None, "have 0 bytes"),
    ],
)
def test_whatever_is_wrong_with_it_is_an_error_and_nothing_worse(
    tmp_path: Path, header: Any, data: bytes, length: int | None, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        read_header(file(tmp_path / "t", header, data, length))


@pytest.mark.parametrize("size", range(8))
def test_a_file_of_a_few_bytes_is_no_safetensors_file(tmp_path: Path, size: int) -> None:
    (tmp_path / "t").write_bytes(bytes([2] + [0] * 7)[:size])
    with pytest.raises(ValueError, match="header"):
        read_header(tmp_path / "t")


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"a": (2, 1), "b": (1,), "none": (0,)}, None),
        ({"a": (2, 1), "b": (1,), "none": (0,), "c": ()}, "t lacks the tensor c"),
        ({"a": (2, 1), "b": (1,)}, "t holds a tensor that is not trained: none"),
        ({"a": (1, 2), "b": (1,), "none": (0,)}, "t: a is (2, 1), not (1, 2)"),
    ],
)
def test_other_tensors_than_expected_are_named(tmp_path: Path, shapes: Any, says: str | None) -> None:
    expected = {name: (shape, "F32") for name, shape in shapes.items()}
    assert find_mismatch(file(tmp_path / "t", WHOLE, bytes(12)), expected) == says


def test_another_kind_of_number_is_named(tmp_path: Path) -> None:
    path = file(tmp_path / "t", {"a": entry(0, 2, 1, dtype="BF16")}, bytes(2))
    assert find_mismatch(path, {"a": ((1,), "F32")}) == "t: a is BF16, not F32"
    assert find_mismatch(path, {"a": ((1,), "BF16")}) is None
