"""Choose the device of a model that answers, so that it never takes the memory that training needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from events.generation import FailureKind, MemoryBudget
from events.settings import FullSettings, JobSettings, QloraSettings
from events.values import Device
from gpu.artifacts.tensors import read_header
from gpu.errors import WorkerError
from gpu.model.base import weights_files

WORKING_BYTES = 256 * 2**20
"""Activations and the cache of keys and values of one dialogue with a small model."""

WORKING_SHARE = 0.1
"""The same for a large one, as a share of its weights."""

GPU_RESERVE = 0.25
"""Share of the GPU's memory that stays free while a daemon runs: the largest step of its training may still come."""

GPU_LIBRARIES_BYTES = 2**30
"""CUDA and its libraries, in each process that uses the GPU."""

QUANTIZED_BYTES = 0.7
"""Bytes of a weight in 4 bits, with its scales."""

NO_GPU = "there is no GPU that torch can use"


class MemoryShort(WorkerError):
    """There is too little memory for the model. Data: `advice`."""

    about: FailureKind = "memory"

    def __init__(self, problem: str, advice: str) -> None:
        self.advice = advice
        super().__init__(problem)


class ChosenDevice(NamedTuple):
    """The device of the model, and sentences about it for the user."""

    device: str
    notes: tuple[str, ...] = ()


def needed_bytes(weights: Path, settings: JobSettings) -> int:
    """Return the bytes that the model in the directory `weights` takes in memory when it answers. Raises OSError,
    ValueError."""
    count = sum(
        math.prod(tensor.shape)
        for name in weights_files(weights)
        for tensor in read_header((weights / name).resolve()).values()
    )
    held = count * _bytes_per_weight(settings)
    return int(held + max(WORKING_BYTES, WORKING_SHARE * held))


def _bytes_per_weight(settings: JobSettings) -> float:
    if isinstance(settings.method, QloraSettings):
        return QUANTIZED_BYTES
    if isinstance(settings.method, FullSettings) or settings.model.dtype == "float32":
        return 4.0
    return 2.0


def choose_device(
    asked: Device,
    weights: Path,
    settings: JobSettings,
    budget: MemoryBudget,
    has_gpu: Callable[[], bool] | None = None,
) -> ChosenDevice:
    """Return the device for the model in the directory `weights`. Raises MemoryShort, OSError, ValueError."""
    needed = needed_bytes(weights, settings)
    if asked != "cpu":
        problem = _gpu_problem(needed, budget, has_gpu or _has_gpu)
        if problem is None:
            return ChosenDevice("cuda")
        if asked == "cuda":
            raise MemoryShort(f"the GPU cannot be used: {problem}", "omit --device, or use --device cpu")
    free = budget.free_bytes
    if budget.daemon_runs:
        free -= max(0, needed - budget.worker_bytes)  # the worker loads the same model, and may not have done so yet
    if needed > free:
        next_to = " next to the training" if budget.daemon_runs else ""
        raise MemoryShort(
            f"the model needs {_gigabytes(needed)} of memory, and {_gigabytes(max(0, free))} may be taken{next_to}",
            "stop the daemon for the time (`keepstep stop`)" if budget.daemon_runs else "close other programs",
        )
    if asked == "auto" and problem is not NO_GPU:
        return ChosenDevice("cpu", (f"the CPU answers: {problem}",))
    return ChosenDevice("cpu")


def _gpu_problem(needed: int, budget: MemoryBudget, has_gpu: Callable[[], bool]) -> str | None:
    """Return why the GPU cannot be used; None if it can."""
    if not has_gpu():
        return NO_GPU
    if budget.gpu_free_bytes is None or budget.gpu_total_bytes is None:
        return "the free memory of the GPU is unknown (`pip install 'keepstep[gpu]'`)" if budget.daemon_runs else None
    reserve = int(GPU_RESERVE * budget.gpu_total_bytes) if budget.daemon_runs else 0
    free = budget.gpu_free_bytes - reserve - GPU_LIBRARIES_BYTES
    if needed <= free:
        return None
    kept = f", of which {_gigabytes(reserve)} stay free for the training" if reserve else ""
    return f"the model needs {_gigabytes(needed)}, and the GPU has {_gigabytes(budget.gpu_free_bytes)} free{kept}"


def _has_gpu() -> bool:
    import torch  # seconds, so only when it is asked for

    return bool(torch.cuda.is_available())


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
