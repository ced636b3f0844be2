"""The view of the machine reads back, or is ignored."""

from __future__ import annotations

from pathlib import Path

from projections.machine import GpuProcessView, GpuView, MachineView, MemoryView, read_machine, write_machine

VIEW = MachineView(
    at=1.8e9,
    cores=2,
    cpu=0.5,
    memory=MemoryView(total_bytes=10, available_bytes=5, worker_bytes=1, pressure=0.25),
    disk_free_bytes=7,
    read_bytes_per_s=1.0,
    written_bytes_per_s=None,
    gpus=(GpuView(name="H100", others=(GpuProcessView(pid=4, name="x", memory_bytes=None),)),),
)


def test_it_reads_back(tmp_path: Path) -> None:
    """All of it."""
    write_machine(tmp_path / "machine.json", VIEW)
    assert read_machine(tmp_path / "machine.json") == VIEW


def test_what_is_spoiled_or_missing_is_none(tmp_path: Path) -> None:
    """A wrong figure is worse than none."""
    path = tmp_path / "machine.json"
    assert read_machine(path) is None
    write_machine(path, VIEW)
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.6"))
    assert read_machine(path) is None
