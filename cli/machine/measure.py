"""Measure the machine: processors, memory, disks, GPUs.

The daemon measures every few seconds for months, so this reads only a few small files in `/proc`. `keepstep status`
measures once and imports no psutil for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gpu.runtime.memory_limits import machine_memory, memory_of_groups
from journal.storage import REAL, Storage
from projections.machine import GroupMemoryView, MachineView, MemoryView

if TYPE_CHECKING:
    from cli.machine.gpus import GpuWatch

PROC = Path("/proc")

PRESSURE = PROC / "pressure" / "memory"
"""Since Linux 4.20: https://docs.kernel.org/accounting/psi.html."""


class MachineWatch:
    """Measures the machine; rates are since the measurement before."""

    def __init__(self, root: Path, *, storage: Storage = REAL, gpus: GpuWatch | None = None) -> None:
        self._root, self._storage = root, storage
        self._gpus = gpus
        self._measured_at: float | None = None
        self._read = self._written = 0

    def measure(self, worker_pid: int | None) -> MachineView:
        """Measure everything. The memory of `worker_pid` and its children is the worker's. Raises OSError."""
        import psutil

        mine = list(process_tree(worker_pid)) if worker_pid is not None else []
        now, before = time.monotonic(), self._measured_at
        cpu = psutil.cpu_percent(interval=None) / 100.0  # since the last call; the first has nothing to compare with
        counted = psutil.disk_io_counters()
        read, written = (counted.read_bytes, counted.write_bytes) if counted is not None else (0, 0)
        passed_s = now - before if before is not None and counted is not None else 0.0
        rates = ((read - self._read) / passed_s, (written - self._written) / passed_s) if passed_s > 0 else (None, None)
        self._measured_at, self._read, self._written = now, read, written
        cards, problem = self._gpus.latest(mine) if self._gpus is not None else ((), None)
        return MachineView(
            at=time.time(),
            cores=os.cpu_count() or 1,
            cpu=cpu if before is not None else None,
            memory=measure_memory(mine),
            disk_free_bytes=self._storage.free_bytes(self._root),
            read_bytes_per_s=rates[0],
            written_bytes_per_s=rates[1],
            gpus=cards,
            gpu_problem=problem,
        )


def measure_once(root: Path, storage: Storage) -> MachineView:
    """Measure what needs no earlier measurement: no rates, no GPUs. Raises OSError."""
    return MachineView(
        at=time.time(),
        cores=os.cpu_count() or 1,
        cpu=None,
        memory=measure_memory([]),
        disk_free_bytes=storage.free_bytes(root),
        read_bytes_per_s=None,
        written_bytes_per_s=None,
        gpus=(),
        gpu_problem=None,
    )


def measure_memory(mine: list[int]) -> MemoryView:
    """Measure the memory. `mine`: the pids of the worker and its children."""
    found = machine_memory()
    return MemoryView(
        total_bytes=found.total,
        available_bytes=found.available,
        worker_bytes=sum(map(private_bytes, mine)),
        swap_used_bytes=found.swap_used,
        pressure=memory_pressure(PRESSURE),
        groups=tuple(
            GroupMemoryView(name=each.name, total_bytes=each.total_bytes, available_bytes=each.available_bytes)
            for each in memory_of_groups()
            if each.total_bytes < found.total
        ),
    )


def private_bytes(pid: int) -> int:
    """Private memory of a process, bytes; 0: it ended. A mapped file, such as weights, is cache and not counted."""
    import psutil

    try:
        found = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return max(0, int(found.rss) - int(getattr(found, "shared", 0)))


def process_tree(pid: int) -> Iterator[int]:
    """A process and its descendants. Asks the kernel for children if it can, which is faster than a scan of all
    processes."""
    yield pid
    try:
        children = [
            int(child)
            for task in (PROC / str(pid) / "task").iterdir()
            for child in (task / "children").read_text(encoding="ascii").split()
        ]
    except OSError:
        children = _children_of(pid)
    for child in children:
        yield from process_tree(child)


def _children_of(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def memory_pressure(path: Path) -> float | None:
    """The share of the last ten seconds in which all tasks waited for memory; None if the kernel does not measure it.

    >>> memory_pressure(Path("/nowhere")) is None
    True
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        kind, *fields = line.split()
        if kind == "full":
            values = dict(field.split("=", 1) for field in fields)
            return float(values["avg10"]) / 100.0
    return None
