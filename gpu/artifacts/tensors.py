"""What a safetensors file says it holds, without torch: eight bytes of length, a JSON header, the numbers.

Nothing in the file is trusted: lengths are bounded before anything is read by them, and every byte behind the header
must belong to exactly one tensor.

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
"""What safetensors itself accepts."""

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
"""Bytes of one number of each kind that a model's file has in practice."""

Kinds = Mapping[str, tuple[tuple[int, ...], str]]
"""Name → shape, and the kind of number as the file names it (`F32`)."""

_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Tensor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of the header."""

    dtype: str
    shape: tuple[_Count, ...]
    data_offsets: tuple[_Count, _Count]
    """From the first byte behind the header."""


_names = msgspec.json.Decoder(dict[str, msgspec.Raw])
_tensor = msgspec.json.Decoder(Tensor)


def read_header(path: Path, *, storage: Storage = REAL) -> dict[str, Tensor]:
    """The tensors that the file at `path` says it holds. Raises OSError, and ValueError with what is wrong with it."""
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
        raise ValueError(f"its tensors have {end} bytes, behind its header there are {size - 8 - length}")
    return tensors


def problem_of(path: Path, expected: Kinds, *, storage: Storage = REAL) -> str | None:
    """Why the file at `path` does not hold exactly the expected tensors, by name, shape and kind; None if it does.

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
