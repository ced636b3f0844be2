"""Compare the weights of a merged model with what peft and transformers make of the same training.

One weight is in memory at a time, at both of its ends: a transposed, scaled or misplaced change shows there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from events.settings import FullSettings, JobSettings
from gpu.artifacts.checkpoint import Snapshot
from gpu.errors import MergeRefused
from gpu.model.build import TrainedModel, name_on_disk
from gpu.versions.merge import DTYPES, Rows, Trained, WeightsFile

ROWS = 16
"""Rows that are compared at each end of a weight."""

CLOSE: Mapping[torch.dtype, float] = {torch.float32: 1e-4, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""How far a merged number may be from peft's own, as a share of it: two roundings of its kind."""


def ends(names: Iterable[str], kind: Callable[[str], str]) -> list[str]:
    """The first and the last name of each kind, in order."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(kind(name), []).append(name)
    return list(dict.fromkeys(name for found in alike.values() for name in (found[0], found[-1])))


@dataclass(frozen=True)
class Merged:
    """The weights of the version: as written, or computed when they are asked for."""

    files: Sequence[WeightsFile]
    trained: Trained | None
    """None: the files are the version's own."""

    def rows(self, name: str, rows: Rows) -> torch.Tensor:
        """Some rows of a tensor of the version, in float32."""
        file = next(file for file in self.files if name in file.tensors)
        found = file.rows(name, rows)
        if self.trained is None:
            return found.float()
        sum_ = self.trained.sum(name, rows, found)
        return (found if sum_ is None else sum_.truth.to(found.dtype)).float()

    def whole(self, name: str) -> torch.Tensor:
        """A tensor from its first row to its last, in float32."""
        file = next(file for file in self.files if name in file.tensors)
        return self.rows(name, Rows(0, file.tensors[name].shape[0]))

    def dtype(self, name: str) -> torch.dtype:
        """The kind of number that a tensor is stored as."""
        file = next(file for file in self.files if name in file.tensors)
        return DTYPES[file.tensors[name].dtype]


def compare(merged: Merged, tensor: str, expected: torch.Tensor, close: float) -> None:
    """Raises MergeRefused if the tensor of the version is not what is expected, at both of its ends."""
    count = expected.shape[0] if expected.dim() else 1
    close = max(close, CLOSE[merged.dtype(tensor)])
    for first in {0, max(0, count - ROWS)}:
        end = min(count, first + ROWS)
        ours = merged.rows(tensor, Rows(first, end))
        theirs = expected[first:end] if expected.dim() else expected
        # A share of the row's own size too: small numbers next to large ones are sums of large ones.
        if not torch.allclose(ours, theirs, rtol=close, atol=close * float(theirs.abs().mean())):
            raise MergeRefused(f"merged, {tensor} is not what peft and transformers make of it")


class Expected(NamedTuple):
    """What a weight of the version has to be."""

    weight: str
    numbers: torch.Tensor
    """Float32."""
    close: float
    """How close the version must be, as a share of the number, besides its own rounding."""
    change: bool = False
    """The numbers are a change of what the base stores: the base is held in 4 bits."""


def expected_weights(
    trained: TrainedModel, snapshot: Snapshot, settings: JobSettings, *, every: bool
) -> Iterator[Expected]:
    """Of adapters by peft's own arithmetic, one layer at a time. `every` weight; else the first and the last of each
    name."""
    if isinstance(settings.method, FullSettings):
        for name, numbers in snapshot.weights.items():
            yield Expected(name, numbers, 0.0)
        return
    close = CLOSE[getattr(torch, settings.model.dtype)]
    layers = list(dict.fromkeys(name.partition(".lora_")[0] for name in snapshot.weights))
    for layer in layers if every else ends(layers, lambda name: name.rpartition(".")[2]):
        weight = f"{layer.removeprefix('base_model.model.')}.weight"
        twin = _twin(trained.model.get_submodule(layer), layer, snapshot)
        if twin.get_base_layer().weight.dtype == torch.uint8:
            yield Expected(weight, twin.get_delta_weight("default").detach().float(), close, change=True)
        else:
            twin.float().merge(safe_merge=True)
            yield Expected(weight, twin.get_base_layer().weight.detach(), close)


def _twin(layer: Any, name: str, snapshot: Snapshot) -> Any:
    """A copy of a layer in memory of its own, with the adapter of the snapshot."""
    twin = copy.deepcopy(layer).to("cpu")
    with torch.no_grad():
        for own, parameter in twin.named_parameters():
            saved = snapshot.weights.get(name_on_disk(f"{name}.{own}"))
            if saved is not None:
                parameter.copy_(saved)
    return twin
