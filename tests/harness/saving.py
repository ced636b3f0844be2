"""The files that a worker that does not train writes next to its weights, and its report of a checkpoint."""

from __future__ import annotations

from events.messages import CheckpointWritten, Prepare, Train
from events.values import CheckpointReason, checkpoint_id
from gpu.artifacts.commit import Committed
from gpu.artifacts.manifest import Cursor, Lineage, Manifest


def manifest_of(
    order: Train, job: Prepare, *, step: int, global_step: int, steps_total: int, parent: str | None
) -> Manifest:
    """The manifest of a checkpoint at this step, its files not yet named."""
    return Manifest(
        checkpoint=checkpoint_id(global_step, order.attempt),
        cursor=Cursor(job=job.job, global_step=global_step, step=step, steps_total=steps_total, epoch=1),
        lineage=Lineage(
            attempt=order.attempt,
            parent=parent,
            data_sha256=job.job,
            batches_sha256="",
            tokenizer_sha256="",
            settings=job.settings,
        ),
        parameters=(),
        optimizer="none",
        environment={},
        files={},
    )


def report_of(manifest: Manifest, committed: Committed, reason: CheckpointReason) -> CheckpointWritten:
    """What the daemon is told when it is on disk."""
    return CheckpointWritten(
        attempt=manifest.lineage.attempt,
        checkpoint=manifest.checkpoint,
        global_step=manifest.cursor.global_step,
        step=manifest.cursor.step,
        parent=manifest.lineage.parent,
        size_bytes=committed.size_bytes,
        manifest_sha256=committed.manifest_sha256,
        reason=reason,
    )
