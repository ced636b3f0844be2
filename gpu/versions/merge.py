"""What was learned, put into the weights: added up in float32 and rounded once.

Merging a small delta into bfloat16 weights in place, night after night, loses most of it: what is less than half the
distance between two neighbouring numbers is rounded away each time. So nothing is ever merged into weights that were
rounded before. The truth is the base as it was at first plus the float32 sum of every delta since (`full`: the float32
master weights themselves), and it is rounded once, on its way to the file.

Files are read and written a few rows at a time: all this needs in memory is one block of them, and what was learned.
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
from gpu.model.layout import Place, as_named
from gpu.runtime.library_paths import library_path
from journal.durable import opened, read_file, write_all
from journal.storage import REAL

BLOCK_ITEMS = 2**20
"""Numbers in hand at a time: 4 MiB in float32, and about ten such blocks at once. More is no faster: the disk is slower
than the arithmetic."""

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
class Tally:
    """How much of what was learned the stored weights really moved. Sums over all weights that learned."""

    trained: float = 0.0
    """Σ delta²"""
    moved: float = 0.0
    """Σ moved · delta, `moved` being what is stored now less what was stored before."""
    moved_in_place: float = 0.0
    """The same, if the delta had been added to what was stored before, and the sum rounded."""

    def add(self, sum_: Sum, stored: torch.Tensor) -> None:
        """Count one block, and what is stored of it now."""
        before, delta = sum_.before.float(), sum_.delta
        in_place = (before + delta).to(stored.dtype).float()
        self.trained += float((delta * delta).sum(dtype=torch.float64))
        self.moved += float(((stored.float() - before) * delta).sum(dtype=torch.float64))
        self.moved_in_place += float(((in_place - before) * delta).sum(dtype=torch.float64))

    @property
    def applied(self) -> float | None:
        """The applied fraction: the projection of what moved onto what was learned. None if nothing was learned."""
        return self.moved / self.trained if self.trained else None

    @property
    def in_place(self) -> float | None:
        """What it would be if the delta were added to the rounded weights themselves."""
        return self.moved_in_place / self.trained if self.trained else None


class Rows(NamedTuple):
    """A block of a tensor: its rows from `first` up to but without `end`."""

    first: int
    end: int


class Sum(NamedTuple):
    """A block of a weight that learned; all float32 but `before`."""

    truth: torch.Tensor
    before: torch.Tensor
    """As it was stored when the last of what was learned was learned beside it."""
    delta: torch.Tensor
    """That last part alone."""


class Trained(Protocol):
    """Where the truth about a weight comes from."""

    def refuse_mismatch(self, files: Sequence[WeightsFile]) -> None:
        """Raises MergeRefused if what was learned does not fit the files that are to be gone through."""

    def trains(self, name: str) -> bool:
        """Whether a weight is another than it was at first."""

    def sum(self, name: str, rows: Rows, found: torch.Tensor) -> Sum | None:
        """What a weight's rows are; None where it did not learn. `found`: what the file that is gone through has."""


class _Pair(NamedTuple):
    """The two factors of a change of a weight, in the layout of that weight: scale · left @ right."""

    left: torch.Tensor
    """(rows, r): B of a linear layer; Aᵀ of an embedding, and of a layer that holds its weight as (in, out)."""
    right: torch.Tensor
    """(r, columns): A of a linear layer; Bᵀ of the others."""
    scale: float
    magnitude: torch.Tensor | None
    """DoRA: the length of each row, (rows)."""


@dataclass
class Adapters:
    """LoRA adapters, the oldest first: each learned beside weights that held all those before it."""

    directories: Sequence[Path]
    place: Callable[[str], Place] = as_named
    """Where a weight of the model is stored (`gpu.model.layout.Layout.place`). Raises MergeRefused."""
    _pairs: list[dict[str, _Pair]] = field(init=False)

    def __post_init__(self) -> None:
        self._pairs = [_read_adapter(directory, self.place) for directory in self.directories]

    def refuse_mismatch(self, files: Sequence[WeightsFile]) -> None:
        """Raises MergeRefused if something learned belongs to no weight of the files, or to one of another shape."""
        there = {name: tensor.shape for file in files for name, tensor in file.tensors.items()}
        for pairs in self._pairs:
            for name, pair in sorted(pairs.items()):
                if name not in there:
                    raise MergeRefused(f"the files of the base have no tensor for {name}, which the adapter changes")
                change = (pair.left.shape[0], pair.right.shape[1])
                if change != there[name]:
                    raise MergeRefused(f"{name}: the change is {_size(change)}, the weight {_size(there[name])}")

    def trains(self, name: str) -> bool:
        """Whether any of them learned this weight."""
        return any(name in pairs for pairs in self._pairs)

    def sum(self, name: str, rows: Rows, found: torch.Tensor) -> Sum | None:
        """base + Σ scale · B A, in float32: https://arxiv.org/abs/2106.09685, section 4.1."""
        if not self.trains(name):
            return None
        trained, delta = torch.zeros(found.shape), torch.zeros(found.shape)
        before = found
        for pairs in self._pairs:
            before = (found.float() + trained).to(found.dtype)  # as the version was stored that this one learned beside
            pair = pairs.get(name)
            delta = torch.zeros(found.shape) if pair is None else _delta(pair, rows, before)
            trained += delta
        return Sum(found.float() + trained, before, delta)


def _delta(pair: _Pair, rows: Rows, before: torch.Tensor) -> torch.Tensor:
    """What rows of a weight have become, less what they were `before`."""
    product = (pair.left[rows.first : rows.end] @ pair.right) * pair.scale
    if pair.magnitude is None:
        return product
    # m (W + s B A) / ‖W + s B A‖, row by row: https://arxiv.org/abs/2402.09353, equation 5, in peft's layout
    turned = before.float() + product
    lengths = torch.linalg.norm(turned, dim=1)
    return turned * (pair.magnitude[rows.first : rows.end] / lengths)[:, None] - before.float()


def _read_adapter(directory: Path, place: Callable[[str], Place]) -> dict[str, _Pair]:
    config = json.loads(read_file(directory / "adapter_config.json"))  # its base path may have any byte
    for key in ("modules_to_save", "rank_pattern", "alpha_pattern", "target_parameters"):
        if config.get(key):
            raise MergeRefused(f"{directory.name} was trained with {key}, which cannot be merged")
    rank = float(config["r"])
    scale = float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)
    tensors = load_file(library_path(directory / "adapter_model.safetensors"))
    pairs = {}
    for module, factors in sorted(_by_module(directory, tensors).items()):
        embedding = "lora_embedding_A" in factors
        into, out_of = (factors.get(f"lora_{'embedding_' if embedding else ''}{which}") for which in "AB")
        if into is None or out_of is None or into.dim() != 2 or out_of.dim() != 2 or out_of.shape[1] != into.shape[0]:
            raise MergeRefused(f"{directory.name}: {module} has no pair of factors that fit each other")
        magnitude = factors.get("lora_magnitude_vector")
        if bool(config.get("use_dora")) != (magnitude is not None):
            raise MergeRefused(f"{directory.name}: {module} and its config do not agree on DoRA")
        tensor, turned = place(f"{module}.weight")
        if embedding or turned:
            if magnitude is not None:
                raise MergeRefused(
                    f"{module} holds its weight as (in, out), and DoRA's lengths of it cannot be merged; "
                    "use_dora = false trains it without them"
                )
            pairs[tensor] = _Pair(into.float().T, out_of.float().T, scale, None)
        else:
            pairs[tensor] = _Pair(out_of.float(), into.float(), scale, magnitude)
    return pairs


_FACTOR = re.compile(
    r"base_model\.model\.(?P<module>.+)"
    r"\.(?P<factor>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(\.weight|\.default)?"
)
"""A tensor of an adapter as peft names it. (`.default`: of an embedding, as keepstep named it before version 0.2.)"""


def _by_module(directory: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The factors of each adapted module."""
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        found = _FACTOR.fullmatch(name)
        if found is None:
            raise MergeRefused(f"{directory.name} trained {name}, which cannot be merged")
        modules.setdefault(found["module"], {})[found["factor"]] = tensor
    return modules


@dataclass
class Masters:
    """Weights that were trained whole, in float32: the file that is gone through is the truth itself."""

    base: Mapping[str, WeightsFile]
    """Each tensor of the origin → the file that holds it."""
    earlier: Mapping[str, WeightsFile] | None = None
    """What they were when the last version was made; None: there is none, and it is `base`."""
    tensor: Callable[[str], str] = str
    """The tensor of the origin that a weight of the model was read from (`gpu.model.layout.Layout.tensor`). Raises
    MergeRefused."""
    buffers: frozenset[str] = frozenset()
    """Tensors that are part of the model and are not trained: they are copied."""

    def refuse_mismatch(self, files: Sequence[WeightsFile]) -> None:
        """Raises MergeRefused if something was trained that the base does not have, or has in another shape."""
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
        """All but buffers were trained."""
        return name not in self.buffers

    def sum(self, name: str, rows: Rows, found: torch.Tensor) -> Sum | None:
        """The master weight; None of a buffer."""
        if name in self.buffers:
            return None
        origin = self._origin(name)
        base = self.base[origin].rows(origin, rows)
        if self.earlier is None:
            return Sum(found, base, found - base.float())
        earlier = self.earlier[name].rows(name, rows)
        return Sum(found, earlier.to(base.dtype), found - earlier)

    def _origin(self, name: str) -> str:
        """The name of a trained weight in the files of the origin."""
        return name if name in self.base else self.tensor(name)


class WeightsFile:
    """A safetensors file, read by blocks of rows. Raises OSError, ValueError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        real = path.resolve()  # a hub cache is made of links
        self.tensors = read_header(real)
        ends = [tensor.data_offsets[1] for tensor in self.tensors.values()]
        self._fd = REAL.open(real, os.O_RDONLY)
        self._begin = os.fstat(self._fd).st_size - max(ends, default=0)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def in_order(self) -> list[tuple[str, Tensor]]:
        """The tensors as they follow each other in the file."""
        return sorted(self.tensors.items(), key=lambda item: item[1].data_offsets)

    def rows(self, name: str, rows: Rows) -> torch.Tensor:
        """Some rows of a tensor, as they are stored; a tensor without dimensions is one row."""
        tensor = self.tensors[name]
        if tensor.dtype not in DTYPES:
            raise MergeRefused(f"{self.path.name}: {name} is stored as {tensor.dtype}, which is no number to add to")
        count, width = _table(tensor)
        assert 0 <= rows.first <= rows.end <= count
        at = self._begin + tensor.data_offsets[0] + rows.first * width * ITEM_BYTES[tensor.dtype]
        wanted = (rows.end - rows.first) * width * ITEM_BYTES[tensor.dtype]
        buffer = bytearray(REAL.read(self._fd, wanted, at))  # torch wants memory of its own, to write to
        if len(buffer) < wanted:
            raise OSError(f"{self.path} ends before {name} does")
        shape = (rows.end - rows.first, *tensor.shape[1:]) if tensor.shape else ()
        return torch.frombuffer(buffer, dtype=DTYPES[tensor.dtype]).reshape(shape) if wanted else torch.empty(shape)


def same(one: WeightsFile, name: str, other: WeightsFile, other_name: str) -> bool:
    """True if two tensors hold the same numbers. Raises OSError."""
    if one.tensors[name].shape != other.tensors[other_name].shape:
        return False
    blocks = _blocks(one.tensors[name])
    return all(torch.equal(one.rows(name, rows).float(), other.rows(other_name, rows).float()) for rows in blocks)


def write_merged(
    file: WeightsFile,
    target: Path,
    trained: Trained,
    stored_as: Callable[[str], str],
    tally: Tally,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Write one file of weights anew, with what was learned in it, its tensors in the order of the old one.

    `stored_as` says what a tensor is rounded to ("F32", "BF16", "F16"); others than floating-point numbers stay what
    they are. `beat` is called once for each block. Raises MergeRefused where what comes out is not finite; OSError.
    """
    kinds = {name: stored_as(name) if tensor.dtype in FLOATS else tensor.dtype for name, tensor in file.tensors.items()}
    with opened(REAL, target, os.O_WRONLY | os.O_CREAT) as fd:
        write_all(REAL, fd, _header(file, kinds))
        for name, tensor in file.in_order():
            for rows in _blocks(tensor):
                found = file.rows(name, rows)
                sum_ = trained.sum(name, rows, found)
                block = (found if sum_ is None else sum_.truth).to(DTYPES[kinds[name]])
                if block.is_floating_point() and not torch.isfinite(block).all():
                    raise MergeRefused(f"{name} cannot be stored as {kinds[name]}: it holds what is not a number there")
                if sum_ is not None:
                    tally.add(sum_, block)
                write_all(REAL, fd, block.reshape(-1).view(torch.uint8).numpy().tobytes())
                beat()


def _header(file: WeightsFile, kinds: Mapping[str, str]) -> bytes:
    """https://github.com/huggingface/safetensors#format: eight bytes of length, JSON, padded to whole words."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in file.in_order():
        begin, end = end, end + math.prod(tensor.shape) * ITEM_BYTES[kinds[name]]
        entries[name] = {"dtype": kinds[name], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _table(tensor: Tensor) -> tuple[int, int]:
    """Rows, and numbers in one."""
    return (tensor.shape[0] if tensor.shape else 1), math.prod(tensor.shape[1:])


def _blocks(tensor: Tensor) -> Iterator[Rows]:
    count, width = _table(tensor)
    step = max(1, BLOCK_ITEMS // max(1, width))
    for first in range(0, count, step):
        yield Rows(first, min(count, first + step))


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
