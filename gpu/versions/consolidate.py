"""Consolidation: the worker merges everything trained since the last version into a new version.

The steps: check disk space and memory; back up the checkpoint; merge into a staging directory; compare the logits with
those of base and adapter; rename. Each step is reported when it is done. Existing files are never changed, so a kill at
any point costs time and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from events.messages import BackedUp, Consolidate, Merged, Verified, VersionWritten
from gpu.artifacts.backup import BackupManifest, back_up
from gpu.artifacts.manifest import MANIFEST, FileEntry, describe
from gpu.artifacts.version_manifest import VersionDirectory, VersionManifest, card, version_directory
from gpu.errors import PreflightFailed, YieldRequested
from gpu.ipc.worker_channel import Heartbeats, WorkerChannel
from gpu.model.base import weights_files
from gpu.runtime.memory_limits import available_bytes
from gpu.versions.logit_check import TOLERANCE, refuse_unless_close
from gpu.versions.merged_model import (
    Sources,
    checkpoint_sources,
    make_manifest,
    open_merged_model,
    trained_contents,
)
from journal.failpoints import failpoint
from journal.storage import REAL

MEMORY_FACTOR = 1.2
"""Memory for the check of the logits, as a multiple of the model: one of the two models is loaded at a time."""

MEMORY_MARGIN_BYTES = 256 * 2**20
"""Memory for the merge itself: some blocks of rows, the adapters, the libraries."""


def consolidate(home: Path, order: Consolidate, channel: WorkerChannel) -> None:
    """Carry out `order`.

    Raises CheckpointBroken, MergeRefused, ModelUnusable, PreflightFailed, StorageFailed, YieldRequested, OSError.
    """
    failpoint("consolidating")
    heartbeats = Heartbeats(channel, order.attempt)

    def beat(_: bytes = b"") -> None:
        if channel.yield_requested():
            raise YieldRequested
        heartbeats.beat("consolidate", 0, 1)

    checkpoint = home / "checkpoints" / order.checkpoint
    sources = checkpoint_sources(home, checkpoint, order.parent, order.model)
    _preflight(home, sources, order)
    manifest_sha256 = describe(checkpoint / MANIFEST).sha256
    backup = BackupManifest(
        backup=order.backup,
        reason=f"before {order.version}",
        version=order.parent,
        checkpoint=order.checkpoint,
        checkpoint_sha256=manifest_sha256,
        files={},
    )
    backed_up = back_up(home / "backups", backup, checkpoint, beat)
    failpoint("backed_up")
    channel.send(
        BackedUp(attempt=order.attempt, size_bytes=backed_up.size_bytes, manifest_sha256=backed_up.manifest_sha256)
    )
    with open_merged_model(sources, None, beat, share=True) as merged:
        manifest = replace(
            make_manifest(sources, merged),
            version=order.version,
            parent=order.parent,
            description=order.description,
            trained=tuple(directory.name for directory in (sources.trained[-1:] if sources.full else sources.trained)),
            data=order.files,
        )
        contents = {
            **merged.contents,
            **trained_contents(sources),
            "README.md": card(manifest, merged.stored_as).encode(),
        }
        distance = math.nan

        def prove(staging: Path) -> None:
            nonlocal distance
            failpoint("merged")
            channel.send(Merged(attempt=order.attempt, applied=merged.tally.applied, in_place=merged.tally.in_place))
            beat()
            distance = refuse_unless_close(staging, sources.reference, merged.stored_as)
            failpoint("verified")
            channel.send(Verified(attempt=order.attempt, difference=distance, tolerance=TOLERANCE[merged.stored_as]))
            beat()

        def complete_manifest(files: Mapping[str, FileEntry]) -> VersionManifest:
            tally = merged.tally
            return replace(manifest, applied=tally.applied, in_place=tally.in_place, files=dict(files))

        version = VersionDirectory(version_directory(home, order.version))
        written = version.write(contents, complete_manifest, beat, prove)
    failpoint("before_version_report")
    channel.send(
        VersionWritten(
            attempt=order.attempt,
            version=order.version,
            size_bytes=written.size_bytes,
            manifest_sha256=written.manifest_sha256,
        )
    )
    failpoint("version_reported")


def _preflight(home: Path, sources: Sources, order: Consolidate) -> None:
    """Raise PreflightFailed if there is too little disk space or memory; nothing has been written then."""
    model_bytes = sum((sources.origin / name).stat().st_size for name in weights_files(sources.origin))
    wanted, free = int(order.space_factor * model_bytes), REAL.free_bytes(home)
    if free < wanted:
        raise PreflightFailed(
            f"the disk has {_gb(free)} free, and merging this model of {_gb(model_bytes)} needs {_gb(wanted)} "
            "(space_factor in [consolidation])"
        )
    wanted, free = int(MEMORY_FACTOR * model_bytes) + MEMORY_MARGIN_BYTES, available_bytes()
    if free < wanted:
        raise PreflightFailed(
            f"{_gb(free)} of memory are free, and merging this model of {_gb(model_bytes)} needs {_gb(wanted)}"
        )


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
