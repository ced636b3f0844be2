"""The machine in `keepstep status`."""

from __future__ import annotations

import time

from msgspec.structs import replace

from cli.home.paths import Home
from cli.output.terminal import ATTENTION
from cli.status.machine import machine_line, machine_now, machine_rows
from projections.machine import GpuView, GroupMemoryView, MachineView, MemoryView, write_machine

GB = 10**9
VIEW = MachineView(
    at=time.time(),
    cores=8,
    cpu=0.43,
    memory=MemoryView(total_bytes=24 * GB, available_bytes=12 * GB, worker_bytes=4 * GB),
    disk_free_bytes=110 * GB,
    read_bytes_per_s=1.2e6,
    written_bytes_per_s=3.4e6,
)


def test_it_is_one_line() -> None:
    """Processors, memory, disk, in and out; trouble only where there is some."""
    assert machine_line(VIEW) == (
        "CPU 43% of 8 cores, memory 12.0 of 24.0 GB (50%, worker 4.0 GB), 110.0 GB of disk free, "
        "read 1.2, written 3.4 MB/s"
    )
    pressed = replace(VIEW.memory, worker_bytes=0, swap_used_bytes=GB, pressure=0.2)
    bare = replace(VIEW, cpu=None, read_bytes_per_s=None, memory=pressed)
    assert machine_line(bare) == (
        "8 cores, memory 12.0 of 24.0 GB (50%), swap 1.0 GB, 20% of the time stalled for memory, 110.0 GB of disk free"
    )


def test_each_card_has_a_line_and_so_has_a_driver_in_trouble() -> None:
    """Yellow where somebody should look."""
    rows = machine_rows(replace(VIEW, gpus=(GpuView(name="A"), GpuView(name="B", temperature_c=95)), gpu_problem="ill"))
    assert [(row.name, row.style) for row in rows] == [
        ("machine", ""),
        ("GPU", ATTENTION),
        ("GPU", ""),
        ("GPU", ATTENTION),
    ]
    assert machine_rows(None) == []


def test_what_a_daemon_measured_lately_is_shown_and_else_it_is_measured_here(home: Home) -> None:
    """A daemon that is gone says nothing of now."""
    write_machine(home.machine, replace(VIEW, at=time.time()))
    assert getattr(machine_now(home, alive=True), "cores", None) == 8
    write_machine(home.machine, replace(VIEW, at=time.time() - 60, disk_free_bytes=1))
    found = machine_now(home, alive=True)
    assert found is not None
    assert found.disk_free_bytes > 1
    assert found.cpu is None


def test_a_daemon_that_has_just_left_has_no_worker_any_more(home: Home) -> None:
    """What it measured a second ago is not so now."""
    write_machine(home.machine, replace(VIEW, at=time.time()))
    found = machine_now(home, alive=False)
    assert found is not None
    assert found.memory.worker_bytes == 0
    assert found.memory.total_bytes != VIEW.memory.total_bytes


def test_a_control_group_that_allows_less_is_named() -> None:
    """The one that has least left."""
    groups = tuple(
        GroupMemoryView(name=name, total_bytes=total * GB, available_bytes=available * GB)
        for name, total, available in (("/a/b", 8, 5), ("/a", 10, 3))
    )
    line = machine_line(replace(VIEW, memory=replace(VIEW.memory, groups=groups)))
    assert ", 7.0 of 10.0 GB in the control group, " in line
