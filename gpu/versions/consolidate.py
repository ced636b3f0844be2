"""A consolidation: what was learned becomes a version, in the worker, while nothing trains.

Look first whether there is room; copy what is about to be replaced, and read the copy back; merge into a staging
directory; load that, and ask it what base and adapter are asked; give it its name. Each is reported when it is done.
Nothing that was there before is touched, so that a kill at any point costs the time and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from events.worker import BackedUp, Consolidate, Merged, Verified, VersionWritten
from gpu.artifacts.backup import Backup, back_up
from gpu.artifacts.commit import publish
from gpu.artifacts.manifest import MANIFEST, FileEntry, describe
from gpu.artifacts.version_manifest import SEAL, card, version_directory
from gpu.errors import PreflightFailed, YieldRequested
from gpu.ipc.worker_channel import Heartbeats, WorkerChannel
from gpu.model.base import weights_files
from gpu.runtime.memory_limits import available_bytes
from gpu.versions.logit_check import TOLERANCE, difference, refuse_unless_alike
from gpu.versions.merged_model import Sources, kept, of_checkpoint, ordinary, sealed_as
from journal.failpoints import failpoint
from journal.storage import REAL

MEMORY_FACTOR = 1.2
"""The merged model is loaded to be asked, one of the two at a time; beside its weights there is little."""

MEMORY_MARGIN_BYTES = 256 * 2**20
"""What merging itself needs: some blocks of rows, the adapters, the libraries."""


def consolidate(home: Path, order: Consolidate, channel: WorkerChannel) -> None:
    """Carry out `order`.

    Raises CheckpointBroken, MergeRefused, ModelUnusable, PreflightFailed, StorageFailed, YieldAsked, OSError.
    """
    failpoint("consolidating")
    heartbeats = Heartbeats(channel, order.attempt)

    def beat(_: bytes = b"") -> None:
        if channel.yield_requested():
            raise YieldRequested
        heartbeats.beat("consolidate", 0, 1)

    checkpoint = home / "checkpoints" / order.checkpoint
    sources = of_checkpoint(home, checkpoint, order.parent)
    _preflight(home, sources, order)
    manifest_sha256 = describe(checkpoint / MANIFEST).sha256
    backup = Backup(
        backup=order.backup,
        reason=f"before {order.version}",
        version=order.parent,
        checkpoint=order.checkpoint,
        checkpoint_sha256=manifest_sha256,
        files={},
    )
    backed_up = back_up(home / "backups", backup, checkpoint, beat)
    failpoint("backed_up")
    channel.tell(
        BackedUp(attempt=order.attempt, size_bytes=backed_up.size_bytes, manifest_sha256=backed_up.manifest_sha256)
    )
    with ordinary(sources, None, beat, share=True) as made:
        said = replace(
            sealed_as(sources, made),
            version=order.version,
            parent=order.parent,
            description=order.description,
            trained=tuple(directory.name for directory in (sources.trained[-1:] if sources.full else sources.trained)),
            data=order.files,
        )
        contents = {**made.contents, **kept(sources), "README.md": card(said, made.stored_as).encode()}
        distance = math.nan

        def prove(staging: Path) -> None:
            nonlocal distance
            failpoint("merged")
            channel.tell(Merged(attempt=order.attempt, applied=made.tally.applied, in_place=made.tally.in_place))
            beat()
            distance = difference(staging, sources.reference)
            refuse_unless_alike(distance, made.stored_as)
            failpoint("verified")
            channel.tell(Verified(attempt=order.attempt, difference=distance, tolerance=TOLERANCE[made.stored_as]))
            beat()

        def seal(entries: Mapping[str, FileEntry]) -> tuple[str, bytes]:
            tally = made.tally
            return SEAL, replace(said, applied=tally.applied, in_place=tally.in_place, files=dict(entries)).encode()

        written = publish(version_directory(home, order.version), contents, seal, beat, prove)
    failpoint("before_version_report")
    channel.tell(
        VersionWritten(
            attempt=order.attempt,
            version=order.version,
            size_bytes=written.size_bytes,
            manifest_sha256=written.manifest_sha256,
        )
    )
    failpoint("version_reported")


def _preflight(home: Path, sources: Sources, order: Consolidate) -> None:
    """Raises PreflightFailed while there is too little room or memory; nothing is begun then."""
    model_bytes = sum((sources.origin / name).stat().st_size for name in weights_files(sources.origin))
    wanted, free = int(order.space_factor * model_bytes), REAL.free_bytes(home)
    if free < wanted:
        raise PreflightFailed(
            f"{_gb(free)} are free on the disk, and merging this model of {_gb(model_bytes)} wants {_gb(wanted)} "
            "(space_factor in [consolidation])"
        )
    wanted, free = int(MEMORY_FACTOR * model_bytes) + MEMORY_MARGIN_BYTES, available_bytes()
    if free < wanted:
        raise PreflightFailed(
            f"{_gb(free)} of memory are free, and merging this model of {_gb(model_bytes)} wants {_gb(wanted)}"
        )


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
