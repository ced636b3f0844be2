"""The view of the machine as the daemon last measured it: memory, processors, disks, GPUs.

It is not folded from events, because a measurement is no event. It carries its time, so a reader sees how old it is.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from journal import durable
from journal.storage import REAL, Storage
from projections.checksum import read_checked, with_checksum


class GroupMemoryView(Struct, frozen=True, kw_only=True):
    """A control group of the daemon that has a memory limit (a systemd unit, a container)."""

    name: str
    total_bytes: int
    """The limit."""
    available_bytes: int
    """Bytes below the limit that can be used without swapping."""


class MemoryView(Struct, frozen=True, kw_only=True):
    """Memory of the machine."""

    total_bytes: int
    available_bytes: int
    """Bytes that any process can use without swapping."""
    worker_bytes: int
    """Private memory of the worker and its children."""
    swap_used_bytes: int = 0
    pressure: float | None = None
    """Share of the last ten seconds in which every process waited for memory; None: not known."""
    groups: tuple[GroupMemoryView, ...] = ()
    """Only groups whose limit is below the memory of the machine."""


class GpuProcessView(Struct, frozen=True, kw_only=True):
    """Another program's process on a GPU."""

    pid: int
    name: str
    memory_bytes: int | None


class GpuView(Struct, frozen=True, kw_only=True):
    """A GPU. None: the driver does not report the value."""

    name: str
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_c: int | None = None
    utilisation: float | None = None
    """0 to 1, recently."""
    others: tuple[GpuProcessView, ...] = ()


class MachineView(Struct, frozen=True, kw_only=True):
    """All measurements."""

    at: float
    """Unix time, seconds."""
    cores: int
    cpu: float | None
    """Share of all cores since the last measurement, 0 to 1; None: this is the first one."""
    memory: MemoryView
    disk_free_bytes: int
    read_bytes_per_s: float | None
    """All disks together, since the last measurement; None: this is the first one."""
    written_bytes_per_s: float | None
    gpus: tuple[GpuView, ...] = ()
    gpu_problem: str | None = None


def write_machine(path: Path, view: MachineView, *, storage: Storage = REAL) -> None:
    """Replace the file, without a sync. Raises OSError."""
    data = with_checksum(msgspec.json.format(msgspec.json.encode(view), indent=2))
    durable.write_atomically(path, data, sync=False, storage=storage)


def read_machine(path: Path, *, storage: Storage = REAL) -> MachineView | None:
    """The view in the file; None if it is missing or damaged."""
    return read_checked(path, _decoder, storage)


_decoder: msgspec.json.Decoder[MachineView] = msgspec.json.Decoder(MachineView)
