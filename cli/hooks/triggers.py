"""Hook triggers, and the summary that a hook gets of an event. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from core.failures import EXPLANATIONS, Trouble
from core.state import State
from core.topics.evaluation.validation import is_worse
from events import kinds
from events.hooks import HookTrigger
from events.kinds import AnyEvent, BatchSkipped, EvaluationDone, MemoryLow, MemoryRecovered, MicrobatchSplit

TITLES: dict[HookTrigger, str] = {
    "job_finished": "a file is trained",
    "job_rejected": "a file cannot be trained on",
    "job_failed": "a job failed permanently",
    "attempt_failed": "an attempt failed",
    "batch_skipped": "a batch is skipped",
    "micro_batch_split": "a step did not fit into memory",
    "held": "waiting for you",
    "disk_low": "the disk is full, or nearly",
    "memory_low": "waiting for memory",
    "diverged": "a step that ran again gave another result",
    "damaged": "a checkpoint is damaged",
    "recovered": "work continues",
    "version_published": "a new version",
    "validation_alert": "the validation loss is too high",
    "version_worse": "a version is worse than its parent",
    "version_held": "a version is held for you",
}
"""The title of each trigger."""

MESSAGE_MAX = 4_000
"""Characters: a summary must fit into a pipe and into the environment."""


class Summary(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON that a hook gets. Fields that do not apply are left out."""

    hook: HookTrigger
    title: str
    message: str
    seq: int
    """The sequence number of the record, which identifies the event; 0 in a test."""
    at: str
    kind: str
    home: str
    job: str | UnsetType = UNSET
    job_name: str | UnsetType = UNSET
    attempt: int | UnsetType = UNSET
    failure: str | UnsetType = UNSET
    meaning: str | UnsetType = UNSET
    advice: str | UnsetType = UNSET
    checkpoint: str | UnsetType = UNSET
    version: str | UnsetType = UNSET
    global_step: int | UnsetType = UNSET

    def environment(self) -> dict[str, str]:
        """The same as environment variables: KEEPSTEP_HOOK, KEEPSTEP_MESSAGE, KEEPSTEP_JOB_NAME, …"""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {
            f"KEEPSTEP_{name.upper()}": str(value).replace("\0", "")
            for name, value in values.items()
            if value is not UNSET
        }


class Triggers:
    """Maps events to triggers. Remembers open problems, so that their end triggers `recovered`."""

    def __init__(self, state: State) -> None:
        self._held = state.daemon.hold is not None
        job = state.training.current
        self._failing = {job.id} if job is not None and job.failures else set[str]()
        self._concern = (job.id, job.evaluation.concern) if job is not None else ("", None)

    def trigger_of(self, event: AnyEvent) -> HookTrigger | None:
        """The trigger of `event`; None: no hook runs."""
        match event:
            case kinds.AttemptFailed(job=job):
                self._failing.add(job)
                return "attempt_failed"
            case kinds.JobTrained(job=job):
                self._failing.discard(job)
                return "job_finished"
            case kinds.JobFailed(job=job) | kinds.JobSkipped(job=job) | kinds.JobRejected(job=job):
                self._failing.discard(job)
                return _TRIGGER_OF.get(type(event))
            case EvaluationDone(job=job, concern=concern):
                of_job, before = self._concern
                self._concern = (job, concern)
                return "validation_alert" if is_worse(concern, before if of_job == job else None) else None
            case kinds.CheckpointCommitted(job=job) if job in self._failing:
                self._failing.discard(job)
                return "recovered"
            case kinds.DaemonHeld():
                self._held = True
                return "held"
            case kinds.Resumed() if self._held:
                self._held = False
                return "recovered"
            case kinds.ConsolidationAborted(failure=None) | kinds.VersionEvaluationFailed(failure=None):
                return None
            case kinds.VersionEvaluated(worse=worse):
                return "version_worse" if worse else None
            case _:
                return _TRIGGER_OF.get(type(event))


_TRIGGER_OF: dict[type, HookTrigger] = {
    kinds.JobRejected: "job_rejected",
    kinds.JobFailed: "job_failed",
    kinds.ConsolidationAborted: "attempt_failed",
    BatchSkipped: "batch_skipped",
    MicrobatchSplit: "micro_batch_split",
    MemoryLow: "memory_low",
    MemoryRecovered: "recovered",
    kinds.StorageLow: "disk_low",
    kinds.StorageExhausted: "disk_low",
    kinds.StorageFreed: "recovered",
    kinds.StorageRecovered: "recovered",
    kinds.DivergenceDetected: "diverged",
    kinds.CheckpointQuarantined: "damaged",
    kinds.VersionPublished: "version_published",
    kinds.VersionEvaluationFailed: "attempt_failed",
    kinds.VersionHeld: "version_held",
}
"""The events whose trigger depends on nothing else."""


def make_summary(  # each is a column of the record
    trigger: HookTrigger,
    event: AnyEvent,
    *,
    seq: int,
    at: str,
    kind: str,
    home: str,
    message: str,
    job_name: str | None,
) -> Summary:
    """Summarize `event` for a hook."""
    failure: Trouble | None = getattr(event, "failure", None)
    if isinstance(event, kinds.DivergenceDetected):
        failure = "diverged"
    elif isinstance(event, kinds.CheckpointQuarantined):
        failure = "damaged"
    elif isinstance(event, EvaluationDone):
        failure = "validation"
    elif isinstance(event, BatchSkipped):
        failure = "loss"
    elif isinstance(event, MicrobatchSplit):
        failure = "out_of_memory"
    advice = getattr(event, "advice", None) or (EXPLANATIONS[failure].advice if failure else None)
    fields: dict[str, Any] = {
        "job": getattr(event, "job", None),
        "job_name": job_name,
        "attempt": getattr(event, "attempt", None),
        "failure": failure,
        "meaning": EXPLANATIONS[failure].meaning if failure else None,
        "advice": advice,
        "checkpoint": getattr(event, "checkpoint", None),
        "version": getattr(event, "version", None),
        "global_step": getattr(event, "global_step", None),
    }
    return Summary(
        hook=trigger,
        title=f"keepstep: {TITLES[trigger]}",
        message=message[:MESSAGE_MAX],
        seq=seq,
        at=at,
        kind=kind,
        home=home,
        **{name: value for name, value in fields.items() if value is not None},
    )
