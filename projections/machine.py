"""The machine as the daemon last measured it: a view beside the status, for whoever asks what else goes on there.

It is folded from nothing: what a machine does at a moment is no event. So it carries its time, and a reader can tell
that it is old.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from journal import durable
from journal.storage import REAL, Storage
from projections.checksum import read_checked, with_checksum


class GroupMemoryView(Struct, frozen=True, kw_only=True):
    """A control group with a limit that the daemon is in (a systemd unit, a container), in bytes."""

    name: str
    total_bytes: int
    """The limit."""
    available_bytes: int
    """Below it, without swapping."""


class MemoryView(Struct, frozen=True, kw_only=True):
    """Of the machine, in bytes."""

    total_bytes: int
    available_bytes: int
    """To anybody, without swapping."""
    worker_bytes: int
    """That the worker and its children have by themselves."""
    swap_used_bytes: int = 0
    pressure: float | None = None
    """The share of the last ten seconds in which nothing at all went on for want of memory; None: not known."""
    groups: tuple[GroupMemoryView, ...] = ()
    """Only those that allow less than the machine has."""


class GpuProcessView(Struct, frozen=True, kw_only=True):
    """A process on a card that is not keepstep's."""

    pid: int
    name: str
    memory_bytes: int | None


class GpuView(Struct, frozen=True, kw_only=True):
    """A card. None: the driver does not say."""

    name: str
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_c: int | None = None
    utilisation: float | None = None
    """0 to 1, of the last moments."""
    others: tuple[GpuProcessView, ...] = ()


class MachineView(Struct, frozen=True, kw_only=True):
    """Everything that was measured."""

    at: float
    """Unix time, seconds."""
    cores: int
    cpu: float | None
    """0 to 1 of all cores, since it was measured before; None: it was not."""
    memory: MemoryView
    disk_free_bytes: int
    read_bytes_per_s: float | None
    """Of all disks together, since it was measured before."""
    written_bytes_per_s: float | None
    gpus: tuple[GpuView, ...] = ()
    gpu_problem: str | None = None


def write_machine(path: Path, view: MachineView, *, storage: Storage = REAL) -> None:
    """Replace the file; not synced. Raises OSError."""
    data = with_checksum(msgspec.json.format(msgspec.json.encode(view), indent=2))
    durable.write_atomically(path, data, sync=False, storage=storage)


def read_machine(path: Path, *, storage: Storage = REAL) -> MachineView | None:
    """The file; None if it is missing or is not one."""
    return read_checked(path, _decoder, storage)


_decoder: msgspec.json.Decoder[MachineView] = msgspec.json.Decoder(MachineView)
