"""The state machine, as data.

Three machines share the journal. A **job** goes its way from the queue to trained (or rejected, failed, skipped). A
**consolidation** goes its way to a version. The **daemon** works, pauses and stops. Three rules hold them together:

1. What is not in a table is illegal: `evolve` raises and the state stays as it was.
2. At most one attempt runs, at a job or at a consolidation. It begins with `attempt_started` or
   `consolidation_started`; each kind in `ENDS_ATTEMPT`, said of what runs, ends it, and for the daemon that is one
   event: `attempt_ended`. So nothing is ever merged under a running training.
3. However an attempt ends before its job does, the job is `queued` again with its committed steps kept, ahead of
   all others: what is begun is finished first.

A pause outlives the process: a paused daemon that stops is `off_paused`, and the next one starts `paused`.

A full disk is no status of either. `storage_exhausted` and `storage_freed` may come in any; between the two no attempt
is begun, and that is all (`State.full`). Memory that others take is the same (`memory_low`, `memory_recovered`,
`State.short`), but that what runs is asked to yield when it has lasted.
"""

from __future__ import annotations

from collections.abc import Mapping

from core.job import JobStatus
from core.state import DaemonStatus
from core.versions import ConsolidationStatus

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
        "micro_batch_halved": "training",
        "batch_set_aside": "training",
        "evaluation_done": "training",
        "evaluation_given_up": "training",
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
"""`version_published` and `consolidation_finished` are one transaction: nothing stays `published`."""

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
"""`daemon_started` while one is on means that the earlier one was killed: its attempt was interrupted just before."""
