"""Measurements of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.machine import measure
from cli.machine.measure import MachineWatch, memory_pressure, private_bytes, process_tree

EATER = "import sys; held = bytearray(60_000_000); print('up', flush=True); sys.stdin.read()"


def test_rates_are_there_from_the_second_time_on(tmp_path: Path) -> None:
    """And the figures are those of a machine."""
    watch = MachineWatch(tmp_path)
    first, second = watch.measure(None), watch.measure(os.getpid())
    assert first.cpu is None
    assert first.read_bytes_per_s is None
    assert second.cpu is not None
    assert 0 < second.memory.available_bytes <= second.memory.total_bytes
    assert first.memory.worker_bytes == 0
    assert second.memory.worker_bytes > 10_000_000
    assert second.disk_free_bytes > 0


def test_the_memory_of_a_worker_is_that_of_its_children_too() -> None:
    """Encoders are subprocesses."""
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {EATER!r}])"
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        mine = list(process_tree(parent.pid))
        assert len(mine) == 2
        assert private_bytes(parent.pid) < 60_000_000 < sum(map(private_bytes, mine))
    finally:
        parent.communicate(b"")
    assert private_bytes(parent.pid) == 0
    assert list(process_tree(parent.pid)) == [parent.pid]


def test_without_lists_of_children_all_processes_are_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not built with that."""
    child = subprocess.Popen([sys.executable, "-c", EATER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        monkeypatch.setattr(measure, "PROC", Path("/nowhere"))
        assert child.pid in list(process_tree(os.getpid()))
    finally:
        child.communicate(b"")


def test_pressure_is_what_the_kernel_says(tmp_path: Path) -> None:
    """The line of what stops everything; nothing where there is none."""
    path = tmp_path / "memory"
    path.write_text("some avg10=9.00 avg60=0.00 total=1\nfull avg10=12.50 avg60=0.00 avg300=0.00 total=1\n", "ascii")
    assert memory_pressure(path) == 0.125
    path.write_text("some avg10=9.00 avg60=0.00 total=1\n", "ascii")
    assert memory_pressure(path) is None
    assert memory_pressure(tmp_path / "nowhere") is None


def test_measuring_costs_next_to_nothing(tmp_path: Path) -> None:
    """Each few seconds, for months: a thousandth of a core would be five milliseconds each time."""
    watch = MachineWatch(tmp_path)
    watch.measure(os.getpid())
    began = time.process_time()
    for _ in range(20):
        watch.measure(os.getpid())
    assert (time.process_time() - began) / 20 < 0.02
