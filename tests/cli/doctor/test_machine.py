"""Checks of what is around the home."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from cli.doctor import machine
from cli.doctor.context import DoctorContext
from cli.doctor.machine import assess_listing
from cli.home.paths import Home
from gpu.runtime import memory_limits
from gpu.runtime.memory_limits import MachineMemory
from journal.storage import Storage


class Narrow(Storage):
    def __init__(self, free: int) -> None:
        self.free = free

    def free_bytes(self, path: Path) -> int:
        return self.free

    def total_bytes(self, path: Path) -> int:
        return 10**12


@pytest.mark.parametrize(("free", "level"), [(1_000_000, "fail"), (8_900_000, "warn"), (10**9, "pass")])
def test_room_is_held_against_what_comes_next(
    trained: Home, free: int, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next checkpoint must fit; a consolidation should."""
    monkeypatch.setattr("cli.doctor.machine.weights_bytes", lambda *_: 10_000_000)
    found = machine.disk(DoctorContext(Home(trained.root, storage=Narrow(free))))
    assert found.level == level
    assert bool(found.advice) == (level != "pass")


def test_disk_is_held_against_the_limits_of_the_config(trained: Home) -> None:
    """ "auto" too: five percent of the disk are missing here."""
    text = trained.config.read_text(encoding="utf-8")
    trained.config.write_text(text.replace("soft_gb = 0.0", 'soft_gb = "auto"'), encoding="utf-8")
    home = Home(trained.root, storage=Narrow(10**9))
    assert machine.disk(DoctorContext(home)).level == "warn"
    trained.config.write_text(text.replace("hard_gb = 0.0", "hard_gb = 2.0"), encoding="utf-8")
    assert machine.disk(DoctorContext(home)).message == "1.0 GB are free, less than [disk] hard_gb (2.0 GB)"


@pytest.mark.parametrize(("available", "level"), [(1_000, "fail"), (5 * 10**8, "warn"), (5 * 10**9, "pass")])
def test_memory_is_held_against_the_model(
    trained: Home, available: int, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit is known before it is loaded."""
    found = MachineMemory(10**10, available, 0)
    for module in (machine, memory_limits):
        monkeypatch.setattr(module, "machine_memory", lambda: found)
    assert machine.memory(DoctorContext(trained)).level == level


def test_no_gpu_is_no_fault(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is used."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert machine.gpu(DoctorContext(home)).message == "no GPU: the CPU is used"


@pytest.mark.parametrize(
    ("script", "level", "message"),
    [
        ("echo 'NVIDIA H100, 1024, 81559, 41'", "pass", "NVIDIA H100: 1.1 of 85.5 GB in use, 41 °C"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "fail", "version mismatch"),
        ("sleep 30", "fail", "driver hangs"),
    ],
)
def test_answer_of_the_driver_is_reported(
    home: Home, script: str, level: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that fails, or hangs."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nexec 2>&1\n{script.replace('sleep', 'exec sleep')}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda _: str(program))
    monkeypatch.setattr(machine, "ANSWER_TIMEOUT_S", 1.0)
    found = machine.gpu(DoctorContext(home))
    assert found.level == level
    assert message in found.message


def test_hot_gpu_is_reported() -> None:
    """Among others that are fine; missing data is no problem."""
    assert assess_listing("A, 1, 2, 50\nB, 1, 2, 95\n").level == "warn"
    assert assess_listing("A, 1, 2, [N/A]\n").level == "pass"


def test_libraries_are_held_against_what_is_asked_for(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too old, or missing; what an extra would need is not asked for."""
    wanted = ["psutil>=6.0", "msgspec>=99", "there-is-no-such>=1", 'neither-this>=1; extra == "demo"']
    monkeypatch.setattr(metadata, "requires", lambda _: wanted)
    found = machine.libraries(DoctorContext(home))
    assert found.level == "fail"
    assert found.message == f"msgspec is {metadata.version('msgspec')}, required >=99; there-is-no-such is missing"
