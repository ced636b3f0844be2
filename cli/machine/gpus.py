"""Measure GPUs with `nvidia-ml-py` (`pip install 'keepstep[gpu]'`): memory, temperature, utilisation, other processes.

A thread asks the driver, so that a driver that hangs does not hang the daemon; the lack of an answer is reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from threading import Thread
from typing import Any

from projections.machine import GpuProcessView, GpuView

ANSWER_TIMEOUT_S = 20.0
"""After this time without an answer the driver counts as hanging."""

MIB = 2**20


def load_nvml() -> Any | None:
    """Load and initialize NVML; None if it is not installed or finds no driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, no card: the CPU is used
        return None
    return pynvml


def read_gpus(nvml: Any, mine: Collection[int] = ()) -> tuple[GpuView, ...]:
    """Measure all GPUs. `mine`: pids of keepstep. A value that a GPU does not report is None. Raises nvml.NVMLError."""
    return tuple(
        _card(nvml, nvml.nvmlDeviceGetHandleByIndex(index), mine) for index in range(nvml.nvmlDeviceGetCount())
    )


def _card(nvml: Any, handle: Any, mine: Collection[int]) -> GpuView:
    def query(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except nvml.NVMLError:  # not every GPU reports every value
            return None

    name = query(lambda: nvml.nvmlDeviceGetName(handle)) or "GPU"
    memory = query(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    rates = query(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    processes = query(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or ()
    return GpuView(
        name=name.decode() if isinstance(name, bytes) else str(name),
        memory_used_bytes=memory.used if memory is not None else None,
        memory_total_bytes=memory.total if memory is not None else None,
        temperature_c=query(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        utilisation=rates.gpu / 100.0 if rates is not None else None,
        others=tuple(
            GpuProcessView(pid=each.pid, name=process_name(each.pid), memory_bytes=each.usedGpuMemory)
            for each in processes
            if each.pid not in mine
        ),
    )


def process_name(pid: int) -> str:
    """The name of a process; "" if it ended or may not be inspected."""
    import psutil

    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return ""


def parse_nvidia_smi(listing: str) -> tuple[GpuView, ...]:
    """What `nvidia-smi --query-gpu=name,memory.used,memory.total,temperature.gpu` says, without units (MiB, °C)."""
    cards = [[field.strip() for field in line.split(",")] for line in listing.splitlines() if line.strip()]
    return tuple(
        GpuView(
            name=name,
            memory_used_bytes=int(used) * MIB if used.isdecimal() else None,
            memory_total_bytes=int(total) * MIB if total.isdecimal() else None,
            temperature_c=int(temperature) if temperature.isdecimal() else None,
        )
        for name, used, total, temperature in cards
    )


class GpuWatch:
    """Measures the GPUs in a thread, and never waits for it."""

    def __init__(self, load: Callable[[], Any | None] = load_nvml, clock: Callable[[], float] = time.monotonic) -> None:
        self._load, self._clock = load, clock
        self._nvml: Any | None = None
        self._asking: Thread | None = None
        self._asked_at = 0.0
        self._loaded = False
        self._problem: str | None = None
        self._cards: tuple[GpuView, ...] = ()

    def latest(self, mine: Collection[int]) -> tuple[tuple[GpuView, ...], str | None]:
        """The last measurement, and the problem with the driver or None. Starts the next measurement."""
        if self._asking is not None and self._asking.is_alive():
            waited_s = self._clock() - self._asked_at
            if waited_s > ANSWER_TIMEOUT_S:
                return (), f"the driver has not answered for {waited_s:.0f} s; restart the machine"
            return self._cards, self._problem
        found = self._cards, self._problem
        if not self._loaded or self._nvml is not None:
            self._asked_at = self._clock()
            self._asking = Thread(target=self._ask, args=(frozenset(mine),), name="gpus", daemon=True)
            self._asking.start()
        return found

    def _ask(self, mine: Collection[int]) -> None:
        if not self._loaded:
            self._nvml = self._load()
            self._loaded = True
        if self._nvml is None:
            return
        try:
            self._cards, self._problem = read_gpus(self._nvml, mine), None
        except self._nvml.NVMLError as error:
            self._cards, self._problem = (), f"the driver reports: {error}"
