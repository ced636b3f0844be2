"""GPUs, measured with a fake driver."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from cli.machine.gpus import GpuWatch, load_nvml, parse_nvidia_smi, process_name, read_gpus
from cli.status.machine import gpu_line, needs_attention


class NVMLError(Exception):
    """As the library's."""


class FakeNvml:
    """`pynvml`, with two cards; the second says hardly anything."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.may_answer = threading.Event()
        self.may_answer.set()

    def nvmlDeviceGetCount(self) -> int:
        self.may_answer.wait(10)
        if self.broken:
            raise NVMLError("GPU is lost")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "H100"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return self._unless_dumb(handle, SimpleNamespace(used=30 * 10**9, total=80 * 10**9))

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return self._unless_dumb(handle, SimpleNamespace(gpu=73))

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> Any:
        return self._unless_dumb(handle, 64)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> Any:
        processes = [SimpleNamespace(pid=2**22 + 1, usedGpuMemory=10**9), SimpleNamespace(pid=42, usedGpuMemory=None)]
        return self._unless_dumb(handle, processes)

    def _unless_dumb(self, handle: int, value: Any) -> Any:
        if handle == 1:
            raise NVMLError("Not Supported")
        return value


def test_what_the_cards_say_is_shown_with_who_else_is_on_them() -> None:
    """What one does not say is left out; the worker is no stranger."""
    one, two = read_gpus(FakeNvml(), {42})
    assert gpu_line(one) == (
        "H100: 30.0 of 80.0 GB in use, 73% busy, 64 °C, other processes: a process (pid 4194305, 1.0 GB)"
    )
    assert needs_attention(one)
    assert gpu_line(two) == "H100: no data"
    assert not needs_attention(two)


def test_the_list_of_nvidia_smi_says_the_same_in_its_own_units() -> None:
    """For a machine without the library."""
    (card,) = parse_nvidia_smi("NVIDIA H100, 1024, 81559, 95\n")
    assert gpu_line(card) == "NVIDIA H100: 1.1 of 85.5 GB in use, 95 °C, hot: it throttles"
    assert parse_nvidia_smi("") == ()


def settled(watch: GpuWatch) -> tuple[Any, str | None]:
    """Once the question that is under way is answered."""
    watch.latest(())
    if watch._asking is not None:
        watch._asking.join(20)
    return watch.latest(())


def test_a_thread_asks_the_driver() -> None:
    """Each call returns the answer to the one before; an error has the driver's words."""
    cards, problem = settled(GpuWatch(lambda: FakeNvml()))
    assert (len(cards), problem) == (2, None)
    assert settled(GpuWatch(lambda: FakeNvml(broken=True))) == ((), "the driver reports: GPU is lost")
    assert settled(GpuWatch(lambda: None)) == ((), None)


def test_a_driver_that_hangs_is_reported_and_blocks_nothing() -> None:
    """One question is under way at a time, however long it takes."""
    now = 0.0
    nvml = FakeNvml()
    nvml.may_answer.clear()
    watch = GpuWatch(lambda: nvml, clock=lambda: now)
    assert watch.latest(()) == ((), None)
    asking = watch._asking
    now = 21.0
    assert watch.latest(()) == ((), "the driver has not answered for 21 s; restart the machine")
    assert watch._asking is asking
    nvml.may_answer.set()


def test_without_library_or_driver_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is a fault."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert load_nvml() is None

    def no_driver() -> None:
        raise NVMLError("Driver Not Loaded")

    fake = SimpleNamespace(NVMLError=NVMLError, nvmlInit=no_driver)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert load_nvml() is None
    fake.nvmlInit = lambda: None
    assert load_nvml() is fake
    assert process_name(2**22 + 1) == ""


def test_the_real_library_without_a_card_is_the_same_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed on a machine that has no driver: no cards, no problem, nothing raised."""
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install 'keepstep[gpu]'")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        pass
    else:
        pytest.skip("there is a card in this machine")
    assert load_nvml() is None
    watch = GpuWatch()
    for _ in range(3):
        assert settled(watch) == ((), None)
