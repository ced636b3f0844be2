"""Measure the memory that a model may take for answers without stopping the training of a daemon."""

from __future__ import annotations

import os

from cli.config.schema import Config
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.machine.gpus import load_nvml, read_gpus
from cli.machine.measure import measure_memory
from core.topics.memory import left_to_others, used_by_others
from events.generation import MemoryBudget
from events.values import Device
from projections.machine import GpuView, MemoryView, read_machine


def measure_budget(home: Home, config: Config, device: Device) -> MemoryBudget:
    """The memory that may be taken now. A GPU is not asked for if `device` is "cpu". Raises OSError,
    journal.errors.JournalError."""
    alive = daemon_is_alive(home)
    view = read_machine(home.machine, storage=home.storage) if alive else None
    worker_bytes = view.memory.worker_bytes if view is not None else 0
    gpu = None if device == "cpu" else _first_gpu()
    known = gpu is not None and gpu.memory_used_bytes is not None and gpu.memory_total_bytes is not None
    return MemoryBudget(
        free_bytes=free_bytes(measure_memory([]), worker_bytes, config if alive else None),
        worker_bytes=worker_bytes,
        daemon_runs=alive,
        trains=alive and load_state(home)[0].state.attempts.current is not None,
        gpu_free_bytes=gpu.memory_total_bytes - gpu.memory_used_bytes if known else None,  # type: ignore[union-attr, operator]
        gpu_total_bytes=gpu.memory_total_bytes if known else None,  # type: ignore[union-attr]
    )


def free_bytes(memory: MemoryView, worker_bytes: int, config: Config | None) -> int:
    """Bytes of main memory that may be taken. `config`: that of a daemon that runs; with more, it would stop training
    ([memory] hold_above)."""
    free = min(memory.available_bytes, *(group.available_bytes for group in memory.groups), memory.available_bytes)
    if config is None or not config.memory.hold_above:
        return free
    limits, total = config.memory, memory.total_bytes
    allowed = left_to_others(limits.hold_above, limits, total_bytes=total, worker_bytes=worker_bytes)
    used = used_by_others(total_bytes=total, available_bytes=memory.available_bytes, worker_bytes=worker_bytes)
    return max(0, min(free, int(allowed - used)))


def _first_gpu() -> GpuView | None:
    """The GPU that torch uses by default; None if NVML does not know."""
    nvml = load_nvml()
    if nvml is None:
        return None
    try:
        cards = read_gpus(nvml)
    except nvml.NVMLError:
        return None
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    index = int(first) if first.isdecimal() else 0
    return cards[index] if index < len(cards) else None
