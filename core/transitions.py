"""The state machine, as data.

Four machines share the journal. A **job** moves from the queue to trained (or rejected, failed, skipped, removed). A
**consolidation** moves to a version. A **version** that the head has not moved to waits for a decision. The **daemon**
works, pauses and stops. Three rules connect them:

1. What is not in a table is illegal: `evolve` raises and the state does not change.
2. At most one attempt runs, at a job, at a consolidation or at the evaluation of a version. `attempt_started`,
   `consolidation_started` or `version_evaluation_started` begins it. Each kind in `ENDS_ATTEMPT` ends it if it is about
   what runs; for the daemon that is one event: `attempt_ended`. So nothing is merged while a training runs.
3. If an attempt ends before its job does, the job is `queued` again and keeps its committed steps, ahead of all others:
   a job that has started is finished first.

A pause outlives the process: a paused daemon that stops is `off_paused`, and the next one starts `paused`.

A full disk is no status. `storage_exhausted` and `storage_freed` may come in any status; between the two no attempt
starts (`State.disk`). A shortage of memory works the same (`memory_low`, `memory_recovered`, `State.memory`), and the
running attempt is asked to yield when the shortage has lasted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

JobStatus = Literal[
    "queued", "held", "preparing", "ready", "training", "trained", "rejected", "failed", "skipped", "removed"
]
DaemonStatus = Literal["off", "off_paused", "idle", "working", "pausing", "paused", "stopping", "stopping_paused"]
ConsolidationStatus = Literal["started", "backed_up", "merged", "verified", "published", "finished", "aborted"]
VersionStatus = Literal["published", "held", "promoted", "deleted"]

RUNNING: frozenset[JobStatus] = frozenset({"preparing", "ready", "training"})
"""A worker works on the job."""

PAUSED: frozenset[DaemonStatus] = frozenset({"paused", "pausing", "off_paused", "stopping_paused"})
OFF: frozenset[DaemonStatus] = frozenset({"off", "off_paused"})
STOPPING: frozenset[DaemonStatus] = frozenset({"stopping", "stopping_paused"})

Kind = str

ENDS_ATTEMPT: frozenset[Kind] = frozenset(
    {
        "attempt_interrupted",
        "attempt_yielded",
        "attempt_failed",
        "job_rejected",
        "job_trained",
        "job_skipped",
        "consolidation_finished",
        "consolidation_aborted",
        "version_evaluated",
        "version_evaluation_failed",
    }
)

JOB: Mapping[JobStatus, Mapping[Kind, JobStatus]] = {
    "queued": {
        "attempt_started": "preparing",
        "job_moved": "queued",
        "job_held": "held",
        "job_skipped": "skipped",
        "job_removed": "removed",
        "job_failed": "failed",
    },
    "held": {
        "job_released": "queued",
        "job_moved": "held",
        "job_skipped": "skipped",
        "job_removed": "removed",
    },
    "preparing": {
        "job_prepared": "ready",
        "job_rejected": "rejected",
        "job_skip_requested": "preparing",
        "attempt_interrupted": "queued",
        "attempt_yielded": "queued",
        "attempt_failed": "queued",
    },
    "ready": {
        "training_started": "training",
        "job_skip_requested": "ready",
        "attempt_interrupted": "queued",
        "attempt_yielded": "queued",
        "attempt_failed": "queued",
    },
    "training": {
        "step_reached": "training",
        "divergence_detected": "training",
        "microbatch_split": "training",
        "batch_skipped": "training",
        "evaluation_done": "training",
        "evaluation_abandoned": "training",
        "job_evaluated": "training",
        "samples_generated": "training",
        "samples_put_off": "training",
        "samples_failed": "training",
        "samples_abandoned": "training",
        "checkpoint_committed": "training",
        "job_skip_requested": "training",
        "job_trained": "trained",
        "job_skipped": "skipped",
        "attempt_interrupted": "queued",
        "attempt_yielded": "queued",
        "attempt_failed": "queued",
    },
    "failed": {
        "job_retried": "queued",
        "job_removed": "removed",
    },
    "trained": {},
    "rejected": {},
    "skipped": {},
    "removed": {},
}

CONSOLIDATION: Mapping[ConsolidationStatus, Mapping[Kind, ConsolidationStatus]] = {
    "started": {
        "consolidation_backed_up": "backed_up",
        "consolidation_aborted": "aborted",
    },
    "backed_up": {
        "consolidation_merged": "merged",
        "consolidation_aborted": "aborted",
    },
    "merged": {
        "consolidation_verified": "verified",
        "consolidation_aborted": "aborted",
    },
    "verified": {
        "version_published": "published",
        "consolidation_aborted": "aborted",
    },
    "published": {"consolidation_finished": "finished"},
    "finished": {},
    "aborted": {},
}
"""`version_published` and `consolidation_finished` are one transaction, so nothing stays `published`."""

VERSION: Mapping[VersionStatus, Mapping[Kind, VersionStatus]] = {
    "published": {
        "version_held": "held",
        "version_promoted": "promoted",
        "head_moved": "promoted",
        "version_deleted": "deleted",
    },
    "held": {
        "version_held": "held",
        "version_promoted": "promoted",
        "head_moved": "promoted",
        "version_deleted": "deleted",
    },
    "promoted": {},
    "deleted": {},
}
"""A version of a consolidation with `gate = "hold"`. `published`: its evaluation is pending. To any other version, the
head moves when its consolidation finishes."""

DAEMON: Mapping[DaemonStatus, Mapping[Kind, DaemonStatus]] = {
    "off": {
        "daemon_started": "idle",
        "pause_requested": "off_paused",
    },
    "off_paused": {
        "daemon_started": "paused",
        "resumed": "off",
    },
    "idle": {
        "daemon_started": "idle",
        "attempt_started": "working",
        "consolidation_started": "working",
        "version_evaluation_started": "working",
        "pause_requested": "paused",
        "daemon_held": "paused",
        "stop_requested": "stopping",
        "daemon_stopped": "off",
    },
    "working": {
        "attempt_ended": "idle",
        "pause_requested": "pausing",
        "stop_requested": "stopping",
    },
    "pausing": {
        "attempt_ended": "paused",
        "resumed": "working",
        "stop_requested": "stopping_paused",
    },
    "paused": {
        "daemon_started": "paused",
        "resumed": "idle",
        "daemon_held": "paused",
        "stop_requested": "stopping_paused",
        "daemon_stopped": "off_paused",
    },
    "stopping": {
        "attempt_ended": "stopping",
        "daemon_started": "idle",
        "pause_requested": "stopping_paused",
        "daemon_held": "stopping_paused",
        "daemon_stopped": "off",
    },
    "stopping_paused": {
        "attempt_ended": "stopping_paused",
        "daemon_started": "paused",
        "resumed": "stopping",
        "daemon_held": "stopping_paused",
        "daemon_stopped": "off_paused",
    },
}
"""`daemon_started` while a daemon is on means that the earlier one was killed; its attempt was interrupted just
before."""
