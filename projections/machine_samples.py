"""The machine over time: samples that the daemon appends to a file of bounded size, for the charts of the page.

They are no events: a measurement decides nothing. The file can be deleted; an older part is replaced when it is full.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from msgspec import Struct

from journal import durable
from journal.storage import REAL, Storage
from projections.machine import MachineView

SAMPLE_EVERY_S = 10.0

FILE_BYTES_MAX = 1_000_000
"""Of the file and of the older one: together one to two days."""


class Sample(Struct, frozen=True, gc=False, array_like=True):
    """The machine at one moment. None: not known."""

    at: float
    """Unix time, seconds."""
    cpu: float | None
    """Share of all cores, 0 to 1."""
    memory_used_bytes: int
    memory_total_bytes: int
    worker_bytes: int
    """Private memory of the worker."""
    disk_free_bytes: int
    read_bytes_per_s: float | None
    written_bytes_per_s: float | None
    gpu: float | None
    """Mean utilisation of the GPUs, 0 to 1."""
    gpu_memory_used_bytes: int | None
    """Of all GPUs together."""


def sample_of(view: MachineView) -> Sample:
    """The sample of a measurement."""
    memory = view.memory
    busy = [gpu.utilisation for gpu in view.gpus if gpu.utilisation is not None]
    used = [gpu.memory_used_bytes for gpu in view.gpus if gpu.memory_used_bytes is not None]
    return Sample(
        at=round(view.at, 1),
        cpu=None if view.cpu is None else round(view.cpu, 3),
        memory_used_bytes=memory.total_bytes - memory.available_bytes,
        memory_total_bytes=memory.total_bytes,
        worker_bytes=memory.worker_bytes,
        disk_free_bytes=view.disk_free_bytes,
        read_bytes_per_s=None if view.read_bytes_per_s is None else round(view.read_bytes_per_s),
        written_bytes_per_s=None if view.written_bytes_per_s is None else round(view.written_bytes_per_s),
        gpu=round(sum(busy) / len(busy), 3) if busy else None,
        gpu_memory_used_bytes=sum(used) if used else None,
    )


def append_sample(path: Path, sample: Sample, *, storage: Storage = REAL) -> None:
    """Append a line, without a sync; a full file becomes the older one. Raises OSError."""
    fd = storage.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        full = storage.size(fd) >= FILE_BYTES_MAX
        # The line feed comes first: after a partial line this one is whole.
        durable.write_all(storage, fd, b"\n" + msgspec.json.encode(sample))
    finally:
        storage.close(fd)
    if full:
        storage.rename(path, older(path))


def read_samples(path: Path, *, storage: Storage = REAL) -> list[Sample]:
    """All samples, oldest first. Lines that are no samples are left out, and so is a file that cannot be read."""
    samples = []
    for part in (older(path), path):
        try:
            data = durable.read_file(part, storage=storage)
        except OSError:
            continue
        for line in data.split(b"\n"):
            try:
                samples.append(_decoder.decode(line))
            except msgspec.MsgspecError:  # the first line is empty, and a crash may leave a partial one
                continue
    return samples


def older(path: Path) -> Path:
    """The file with the older samples."""
    return path.with_suffix(".old.jsonl")


def thinned(samples: list[Sample], points: int) -> list[Sample]:
    """At most `points` of the samples, evenly chosen, the newest included."""
    size = max(1, -(-len(samples) // max(1, points)))
    return samples[(len(samples) - 1) % size :: size] if samples else []


_decoder: msgspec.json.Decoder[Sample] = msgspec.json.Decoder(Sample)
