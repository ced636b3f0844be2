"""Merge trained weights into the origin: add them up in float32 and round once.

Merging a small delta into bfloat16 weights in place, night after night, loses most of it: each time, what is less than
half the distance between two neighbouring numbers is rounded away. So nothing is merged into rounded weights. The exact
weights are the origin plus the float32 sum of every delta since (`full`: the float32 master weights). They are rounded
once, when they are written.

Files are read and written in blocks of rows. Memory holds one block and the trained weights.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors.torch import load_file

from gpu.artifacts.tensors import ITEM_BYTES, Tensor, read_header
from gpu.errors import MergeRefused
from gpu.model.layout import StoredWeight, stored_as_named
from gpu.runtime.library_paths import library_path
from journal.durable import opened, read_file, write_all
from journal.storage import REAL

BLOCK_ITEMS = 2**20
"""Numbers in one block: 4 MiB in float32; about ten blocks are in memory at once. Larger blocks are no faster: the disk
is slower than the arithmetic."""

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass
class MergeStats:
    """Sums over all trained weights that show how far the stored weights moved towards the exact ones."""

    trained: float = 0.0
    """Σ delta²"""
    moved: float = 0.0
    """Σ moved · delta, where `moved` is the stored value now minus the stored value before."""
    moved_in_place: float = 0.0
    """The same sum if the delta were added to the stored value before and rounded."""

    def add(self, block: MergedBlock, stored: torch.Tensor) -> None:
        """Add one block; `stored` is its rounded value."""
        before, delta = block.before.float(), block.delta
        in_place = (before + delta).to(stored.dtype).float()
        self.trained += float((delta * delta).sum(dtype=torch.float64))
        self.moved += float(((stored.float() - before) * delta).sum(dtype=torch.float64))
        self.moved_in_place += float(((in_place - before) * delta).sum(dtype=torch.float64))

    @property
    def applied(self) -> float | None:
        """The applied fraction: Σ moved · delta / Σ delta². None if nothing was trained."""
        return self.moved / self.trained if self.trained else None

    @property
    def in_place(self) -> float | None:
        """The applied fraction of a merge in place, into the rounded weights."""
        return self.moved_in_place / self.trained if self.trained else None


class RowRange(NamedTuple):
    """A block of a tensor: the rows from `first` to `end`, `end` excluded."""

    first: int
    end: int


class MergedBlock(NamedTuple):
    """A block of a trained weight; float32 except for `before`."""

    value: torch.Tensor
    """The exact value."""
    before: torch.Tensor
    """The stored value that the newest checkpoint was trained on."""
    delta: torch.Tensor
    """The change by the newest checkpoint alone."""


class TrainedWeights(Protocol):
    """Everything trained since the origin, in one of two forms: adapters or full weights."""

    def refuse_mismatch(self, files: Sequence[WeightsFile]) -> None:
        """Raise MergeRefused if the trained weights do not fit the input files."""

    def trains(self, name: str) -> bool:
        """True if a weight was trained."""

    def merge(self, name: str, rows: RowRange, found: torch.Tensor) -> MergedBlock | None:
        """Return the merged rows of a weight; None if it was not trained. `found`: these rows in the input file."""


class _LowRankDelta(NamedTuple):
    """The change of a weight, scale · left @ right, in the layout of that weight."""

    left: torch.Tensor
    """(rows, r): B of a linear layer; Aᵀ of an embedding, and of a layer that holds its weight as (in, out)."""
    right: torch.Tensor
    """(r, columns): A of a linear layer; Bᵀ of the others."""
    scale: float
    magnitude: torch.Tensor | None
    """DoRA: the norm of each row, (rows)."""


@dataclass
class AdapterWeights:
    """LoRA adapters, the oldest first. Each was trained on weights that held all adapters before it."""

    directories: Sequence[Path]
    locate: Callable[[str], StoredWeight] = stored_as_named
    """Finds the tensor that stores a weight of the model (`Layout.locate`). Raises MergeRefused."""
    _deltas: list[dict[str, _LowRankDelta]] = field(init=False)

    def __post_init__(self) -> None:
        self._deltas = [_read_adapter(directory, self.locate) for directory in self.directories]

    def refuse_mismatch(self, files: Sequence[WeightsFile]) -> None:
        """Raise MergeRefused if a delta belongs to no tensor of the files, or to one of another shape."""
        shapes = {name: tensor.shape for file in files for name, tensor in file.tensors.items()}
        for deltas in self._deltas:
            for name, delta in sorted(deltas.items()):
                if name not in shapes:
                    raise MergeRefused(f"the files of the base have no tensor for {name}, which the adapter changes")
                shape = (delta.left.shape[0], delta.right.shape[1])
                if shape != shapes[name]:
                    raise MergeRefused(f"{name}: the change is {_size(shape)}, the weight {_size(shapes[name])}")

    def trains(self, name: str) -> bool:
        """True if any of the adapters changes this weight."""
        return any(name in deltas for deltas in self._deltas)

    def merge(self, name: str, rows: RowRange, found: torch.Tensor) -> MergedBlock | None:
        """Return base + Σ scale · B A, in float32: https://arxiv.org/abs/2106.09685, section 4.1."""
        if not self.trains(name):
            return None
        trained, delta = torch.zeros(found.shape), torch.zeros(found.shape)
        before = found
        for deltas in self._deltas:
            before = (found.float() + trained).to(found.dtype)  # stored in the version that this adapter was trained on
            delta = _delta_of(deltas[name], rows, before) if name in deltas else torch.zeros(found.shape)
            trained += delta
        return MergedBlock(found.float() + trained, before, delta)


def _delta_of(update: _LowRankDelta, rows: RowRange, before: torch.Tensor) -> torch.Tensor:
    """Return the change of some rows of a weight; `before`: their stored values."""
    product = (update.left[rows.first : rows.end] @ update.right) * update.scale
    if update.magnitude is None:
        return product
    # m (W + s B A) / ‖W + s B A‖, row by row: https://arxiv.org/abs/2402.09353, equation 5, in peft's layout
    direction = before.float() + product
    norms = torch.linalg.norm(direction, dim=1)
    return direction * (update.magnitude[rows.first : rows.end] / norms)[:, None] - before.float()


def _read_adapter(directory: Path, locate: Callable[[str], StoredWeight]) -> dict[str, _LowRankDelta]:
    config = json.loads(read_file(directory / "adapter_config.json"))  # not msgspec: its base path may contain any byte
    for key in ("modules_to_save", "rank_pattern", "alpha_pattern", "target_parameters"):
        if config.get(key):
            raise MergeRefused(f"{directory.name} was trained with {key}, which cannot be merged")
    rank = float(config["r"])
    scale = float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)
    tensors = load_file(library_path(directory / "adapter_model.safetensors"))
    deltas = {}
    for module, factors in sorted(_by_module(directory, tensors).items()):
        embedding = "lora_embedding_A" in factors
        a, b = (factors.get(f"lora_{'embedding_' if embedding else ''}{which}") for which in "AB")
        if a is None or b is None or a.dim() != 2 or b.dim() != 2 or b.shape[1] != a.shape[0]:
            raise MergeRefused(f"{directory.name}: {module} has no two factors A and B that fit each other")
        magnitude = factors.get("lora_magnitude_vector")
        if bool(config.get("use_dora")) != (magnitude is not None):
            raise MergeRefused(f"{directory.name}: {module} and its config do not agree on DoRA")
        tensor, transposed = locate(f"{module}.weight")
        if embedding or transposed:
            if magnitude is not None:
                raise MergeRefused(
                    f"{module} holds its weight as (in, out), and DoRA's magnitudes of it cannot be merged; "
                    "use_dora = false trains it without them"
                )
            deltas[tensor] = _LowRankDelta(a.float().T, b.float().T, scale, None)
        else:
            deltas[tensor] = _LowRankDelta(b.float(), a.float(), scale, magnitude)
    return deltas


_FACTOR = re.compile(
    r"base_model\.model\.(?P<module>.+)"
    r"\.(?P<factor>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(\.weight|\.default)?"
)
"""The name of an adapter's tensor in peft. (keepstep before 0.2 wrote `.default` after those of an embedding.)"""


def _by_module(directory: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Return the tensors of each adapted module."""
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        found = _FACTOR.fullmatch(name)
        if found is None:
            raise MergeRefused(f"{directory.name} trained {name}, which cannot be merged")
        modules.setdefault(found["module"], {})[found["factor"]] = tensor
    return modules


@dataclass
class FullWeights:
    """Weights that were trained whole, in float32: the input file holds the exact values."""

    base: Mapping[str, WeightsFile]
    """By tensor of the origin: the file that holds it."""
    earlier: Mapping[str, WeightsFile] | None = None
    """The float32 weights of the last version; None: there is none, and `base` takes their place."""
    tensor: Callable[[str], str] = str
    """Finds the tensor of the origin that a weight was read from (`Layout.tensor`). Raises MergeRefused."""
    buffers: frozenset[str] = frozenset()
    """Tensors that are part of the model and are not trained. They are copied."""

    def refuse_mismatch(self, files: Sequence[WeightsFile]) -> None:
        """Raise MergeRefused if a trained weight is missing in the base or has another shape there."""
        for file in files:
            for name, tensor in file.tensors.items():
                if name in self.buffers:
                    continue
                origin = self._origin(name)
                if origin not in self.base:
                    raise MergeRefused(f"the base has no weight {name}, which was trained")
                shape = self.base[origin].tensors[origin].shape
                if tensor.shape != shape:
                    raise MergeRefused(
                        f"{name} was trained as {_size(tensor.shape)}, the base has it as {_size(shape)}"
                    )

    def trains(self, name: str) -> bool:
        """True for everything but buffers."""
        return name not in self.buffers

    def merge(self, name: str, rows: RowRange, found: torch.Tensor) -> MergedBlock | None:
        """Return the float32 weight; None for a buffer."""
        if name in self.buffers:
            return None
        origin = self._origin(name)
        base = self.base[origin].rows(origin, rows)
        if self.earlier is None:
            return MergedBlock(found, base, found - base.float())
        earlier = self.earlier[name].rows(name, rows)
        return MergedBlock(found, earlier.to(base.dtype), found - earlier)

    def _origin(self, name: str) -> str:
        """Return the name of a trained weight in the files of the origin."""
        return name if name in self.base else self.tensor(name)


class WeightsFile:
    """A safetensors file that is read in blocks of rows. Raises OSError, ValueError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        real = path.resolve()  # the files of a hub cache are links
        self.tensors = read_header(real)
        ends = [tensor.data_offsets[1] for tensor in self.tensors.values()]
        self._fd = REAL.open(real, os.O_RDONLY)
        self._begin = os.fstat(self._fd).st_size - max(ends, default=0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def in_order(self) -> list[tuple[str, Tensor]]:
        """Return the tensors in the order of the file."""
        return sorted(self.tensors.items(), key=lambda item: item[1].data_offsets)

    def rows(self, name: str, rows: RowRange) -> torch.Tensor:
        """Return some rows of a tensor in its stored dtype. A tensor without dimensions is one row.

        Raises MergeRefused for a dtype without arithmetic; OSError.
        """
        tensor = self.tensors[name]
        if tensor.dtype not in DTYPES:
            raise MergeRefused(f"{self.path.name}: {name} is stored as {tensor.dtype}, which cannot be added to")
        count, width = _rows_and_width(tensor)
        assert 0 <= rows.first <= rows.end <= count
        at = self._begin + tensor.data_offsets[0] + rows.first * width * ITEM_BYTES[tensor.dtype]
        wanted = (rows.end - rows.first) * width * ITEM_BYTES[tensor.dtype]
        buffer = bytearray(REAL.read(self._fd, wanted, at))  # torch needs writable memory
        if len(buffer) < wanted:
            raise OSError(f"{self.path} ends before {name} does")
        shape = (rows.end - rows.first, *tensor.shape[1:]) if tensor.shape else ()
        return torch.frombuffer(buffer, dtype=DTYPES[tensor.dtype]).reshape(shape) if wanted else torch.empty(shape)


def tensors_equal(one: WeightsFile, name: str, other: WeightsFile, other_name: str) -> bool:
    """True if two tensors hold the same numbers. Raises OSError."""
    if one.tensors[name].shape != other.tensors[other_name].shape:
        return False
    blocks = _blocks(one.tensors[name])
    return all(torch.equal(one.rows(name, rows).float(), other.rows(other_name, rows).float()) for rows in blocks)


def write_merged(
    file: WeightsFile,
    target: Path,
    trained: TrainedWeights,
    stored_as: Callable[[str], str],
    tally: MergeStats,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Write `file` with the trained weights merged in to `target`, its tensors in the same order.

    `stored_as` returns the dtype that a tensor is rounded to ("F32", "BF16", "F16"); tensors of integers keep theirs.
    `beat` is called once for each block. Raises MergeRefused if a result is not finite; OSError.
    """
    kinds = {name: stored_as(name) if tensor.dtype in FLOATS else tensor.dtype for name, tensor in file.tensors.items()}
    with opened(REAL, target, os.O_WRONLY | os.O_CREAT) as fd:
        write_all(REAL, fd, _header(file, kinds))
        for name, tensor in file.in_order():
            for rows in _blocks(tensor):
                found = file.rows(name, rows)
                merged = trained.merge(name, rows, found)
                block = (found if merged is None else merged.value).to(DTYPES[kinds[name]])
                if block.is_floating_point() and not torch.isfinite(block).all():
                    raise MergeRefused(f"{name} cannot be stored as {kinds[name]}: it would not be finite")
                if merged is not None:
                    tally.add(merged, block)
                write_all(REAL, fd, block.reshape(-1).view(torch.uint8).numpy().tobytes())
                beat()


def _header(file: WeightsFile, kinds: Mapping[str, str]) -> bytes:
    """Return the header of the output: eight bytes of length and JSON, padded to a multiple of eight bytes.

    The format: https://github.com/huggingface/safetensors#format.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in file.in_order():
        begin, end = end, end + math.prod(tensor.shape) * ITEM_BYTES[kinds[name]]
        entries[name] = {"dtype": kinds[name], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _rows_and_width(tensor: Tensor) -> tuple[int, int]:
    """Return the number of rows, and of numbers in one row."""
    return (tensor.shape[0] if tensor.shape else 1), math.prod(tensor.shape[1:])


def _blocks(tensor: Tensor) -> Iterator[RowRange]:
    count, width = _rows_and_width(tensor)
    step = max(1, BLOCK_ITEMS // max(1, width))
    for first in range(0, count, step):
        yield RowRange(first, min(count, first + step))


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
