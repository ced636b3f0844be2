"""Compare the weights of a merged model with those that peft and transformers compute from the same checkpoint.

One weight is compared at a time, at its first and last rows: a transposed, scaled or misplaced change shows there.
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
from gpu.versions.merge import DTYPES, RowRange, TrainedWeights, WeightsFile

ROWS = 16
"""Rows that are compared at each end of a weight."""

CLOSE: Mapping[torch.dtype, float] = {torch.float32: 1e-4, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Largest relative difference between a merged number and peft's, by dtype: two roundings."""


def first_and_last(names: Iterable[str], kind: Callable[[str], str]) -> list[str]:
    """Return the first and the last name of each kind, in order."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(kind(name), []).append(name)
    return list(dict.fromkeys(name for found in alike.values() for name in (found[0], found[-1])))


@dataclass(frozen=True)
class MergedTensors:
    """The tensors of a version: read from its files, or merged on demand."""

    files: Sequence[WeightsFile]
    trained: TrainedWeights | None
    """The weights to merge into `files`; None: the files are those of the version."""

    def rows(self, name: str, rows: RowRange) -> torch.Tensor:
        """Return some rows of a tensor, in float32."""
        file = next(file for file in self.files if name in file.tensors)
        found = file.rows(name, rows)
        if self.trained is None:
            return found.float()
        merged = self.trained.merge(name, rows, found)
        return (found if merged is None else merged.value.to(found.dtype)).float()

    def whole(self, name: str) -> torch.Tensor:
        """Return all rows of a tensor, in float32."""
        file = next(file for file in self.files if name in file.tensors)
        return self.rows(name, RowRange(0, file.tensors[name].shape[0]))

    def dtype(self, name: str) -> torch.dtype:
        """Return the stored dtype of a tensor."""
        file = next(file for file in self.files if name in file.tensors)
        return DTYPES[file.tensors[name].dtype]


def check_tensor(merged: MergedTensors, tensor: str, expected: torch.Tensor, close: float) -> None:
    """Raise MergeRefused unless the first and the last rows of `tensor` are close to those of `expected`.

    `close` is the largest relative difference; the rounding of the stored dtype is allowed anyway.
    """
    count = expected.shape[0] if expected.dim() else 1
    close = max(close, CLOSE[merged.dtype(tensor)])
    for first in {0, max(0, count - ROWS)}:
        end = min(count, first + ROWS)
        ours = merged.rows(tensor, RowRange(first, end))
        theirs = expected[first:end] if expected.dim() else expected
        # Relative to the rows' mean too: a small number next to large ones is a difference of large ones.
        if not torch.allclose(ours, theirs, rtol=close, atol=close * float(theirs.abs().mean())):
            raise MergeRefused(f"the merged {tensor} differs from what peft and transformers compute")


class Expected(NamedTuple):
    """The expected value of a weight of the version."""

    weight: str
    numbers: torch.Tensor
    """Float32."""
    close: float
    """Largest relative difference, apart from the rounding of the stored dtype."""
    change: bool = False
    """True if `numbers` is the change of the base's weight: the model holds the base in 4 bits."""


def expected_weights(
    trained: TrainedModel, snapshot: Snapshot, settings: JobSettings, *, every: bool
) -> Iterator[Expected]:
    """Yield the expected weights: those of the snapshot or, for adapters, what peft computes, one layer at a time.

    `every`: all weights; else the first and the last one of each name.
    """
    if isinstance(settings.method, FullSettings):
        for name, numbers in snapshot.weights.items():
            yield Expected(name, numbers, 0.0)
        return
    close = CLOSE[getattr(torch, settings.model.dtype)]
    layers = list(dict.fromkeys(name.partition(".lora_")[0] for name in snapshot.weights))
    for layer in layers if every else first_and_last(layers, lambda name: name.rpartition(".")[2]):
        weight = f"{layer.removeprefix('base_model.model.')}.weight"
        layer_copy = _copy_layer(trained.model.get_submodule(layer), layer, snapshot)
        if layer_copy.get_base_layer().weight.dtype == torch.uint8:
            yield Expected(weight, layer_copy.get_delta_weight("default").detach().float(), close, change=True)
        else:
            layer_copy.float().merge(safe_merge=True)
            yield Expected(weight, layer_copy.get_base_layer().weight.detach(), close)


def _copy_layer(layer: Any, name: str, snapshot: Snapshot) -> Any:
    """Return a copy of a layer on the CPU, with the adapter of the snapshot."""
    layer_copy = copy.deepcopy(layer).to("cpu")
    with torch.no_grad():
        for own, parameter in layer_copy.named_parameters():
            saved = snapshot.weights.get(name_on_disk(f"{name}.{own}"))
            if saved is not None:
                parameter.copy_(saved)
    return layer_copy
