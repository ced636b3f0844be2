"""The header of a safetensors file, read without torch: eight bytes of length, a JSON header, the numbers.

Nothing in the file is trusted: lengths are bounded before they are used, and every byte after the header must belong to
exactly one tensor.

The format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from journal.durable import opened
from journal.storage import REAL, Storage

LONGEST_HEADER_BYTES = 100_000_000
"""The limit of safetensors itself."""

ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
"""Bytes of one number of each dtype that model files have in practice."""

Kinds = Mapping[str, tuple[tuple[int, ...], str]]
"""By name: shape, and dtype as the file names it (`F32`)."""

_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Tensor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of the header."""

    dtype: str
    shape: tuple[_Count, ...]
    data_offsets: tuple[_Count, _Count]
    """Start and end, counted from the first byte after the header."""


_names = msgspec.json.Decoder(dict[str, msgspec.Raw])
_tensor = msgspec.json.Decoder(Tensor)


def read_header(path: Path, *, storage: Storage = REAL) -> dict[str, Tensor]:
    """Return the tensors that the header of the file at `path` lists. Raises OSError; ValueError if it is damaged."""
    with opened(storage, path, os.O_RDONLY) as fd:
        size = storage.size(fd)
        length = int.from_bytes(storage.read(fd, 8, 0), "little")
        if size < 8 or not 2 <= length <= min(LONGEST_HEADER_BYTES, size - 8):
            raise ValueError(f"its header cannot be {length} bytes long")
        header = storage.read(fd, length, 8)
    try:
        tensors = {name: _tensor.decode(raw) for name, raw in _names.decode(header).items() if name != "__metadata__"}
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"its header is damaged: {error}") from error
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        if tensor.dtype not in ITEM_BYTES:
            raise ValueError(f"{name} is of an unknown kind, {tensor.dtype}")
        begin, end_before, end = tensor.data_offsets[0], end, tensor.data_offsets[1]
        if begin != end_before or end - begin != math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]:
            raise ValueError(f"the place of {name} does not fit its shape or its neighbours")
    if end != size - 8 - length:
        raise ValueError(f"its tensors have {end} bytes, after its header there are {size - 8 - length}")
    return tensors


def find_mismatch(path: Path, expected: Kinds, *, storage: Storage = REAL) -> str | None:
    """Return why the file at `path` does not hold exactly these tensors, by name, shape and dtype; None if it does.

    Raises OSError.
    """
    try:
        tensors = read_header(path, storage=storage)
    except ValueError as error:
        return f"{path.name} is no safetensors file: {error}"
    for missing in sorted(expected.keys() - tensors.keys()):
        return f"{path.name} lacks the tensor {missing}"
    for extra in sorted(tensors.keys() - expected.keys()):
        return f"{path.name} holds a tensor that is not trained: {extra}"
    for name, (shape, kind) in expected.items():
        if tensors[name].shape != shape:
            return f"{path.name}: {name} is {tensors[name].shape}, not {shape}"
        if tensors[name].dtype != kind:
            return f"{path.name}: {name} is {tensors[name].dtype}, not {kind}"
    return None
