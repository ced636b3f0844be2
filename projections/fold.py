"""The fold of all views: the state, and the progress that only people look at."""

from __future__ import annotations

from msgspec.structs import replace

from core.evolve import evolve
from core.job import FEW_STEPS
from core.state import State
from core.topics.evaluation.samples import put_off_text
from core.topics.evaluation.validation import described, is_worse
from events import kinds
from events.codec import Record, kind_of
from events.kinds import (
    AnyEvent,
    ConfigRefused,
    EvaluationAbandoned,
    EvaluationDone,
    MemoryLow,
    OverheadMeasured,
    SamplesAbandoned,
    SamplesFailed,
    SamplesGenerated,
    SamplesPutOff,
)
from projections.evaluation.marks import with_evaluation
from projections.progress import Evaluated, Folded, Pace, Progress, SampledRound
from projections.trouble import Trouble

ERRORS_SHOWN = 5
"""So many fit on a screen with the rest; the journal has all of them."""

PASSING = frozenset(
    kind_of_type.__struct_config__.tag
    for kind_of_type in (
        kinds.AttemptFailed,
        kinds.AttemptInterrupted,
        kinds.DaemonHeld,
        kinds.StorageExhausted,
        kinds.StorageLow,
        kinds.ConsolidationAborted,
        kinds.ConsolidationCancelled,
        kinds.VersionEvaluationFailed,
        ConfigRefused,
        EvaluationAbandoned,
        MemoryLow,
        SamplesAbandoned,
        SamplesFailed,
    )
)
"""Kinds of troubles that are over once a file is trained or a version is published. `keepstep failures` still shows
them."""

SMOOTHING = 0.1
"""Weight of the newest step in the smoothed speed, which is an average of about the last twenty steps."""


def fold(folded: Folded, record: Record) -> Folded:
    """Fold one more record. Raises core.errors.IllegalEvent."""
    event = record.event
    before, progress = folded.state, folded.progress
    state = evolve(before, event)
    if type(event) is kinds.StepReached:
        return Folded(state, _with_step(progress, event))
    progress = with_evaluation(_with_bytes(progress, before, event), record, before)
    if state.daemon.status != before.daemon.status:
        progress = replace(progress, doing_since=record.at)
    if isinstance(event, kinds.DaemonStarted):
        progress = replace(progress, stop_reason="", started_seq=record.seq)
    if isinstance(event, kinds.DaemonStopped):
        progress = replace(progress, stop_reason=event.reason)
    if isinstance(event, kinds.JobTrained | kinds.VersionPublished):
        progress = replace(progress, troubles=_lasting(progress))
    message = _trouble(event, before)
    if message is not None:
        trouble = Trouble(record.seq, record.at, kind_of(event), message)
        progress = replace(progress, troubles=(*_still_shown(progress.troubles, event), trouble)[-ERRORS_SHOWN:])
    if isinstance(event, OverheadMeasured):
        progress = replace(progress, watching=event)
    if isinstance(event, EvaluationDone) and before.training.current is not None:
        progress = replace(progress, evaluated=Evaluated(record.at, before.training.current.name, event))
    if (round_ := _with_samples(progress.sampled, record, before)) is not progress.sampled:
        progress = replace(progress, sampled=round_)
    if isinstance(event, kinds.AttemptStarted):
        progress = replace(progress, last_step=None, pace=None)
    return Folded(state, progress)


def _still_shown(troubles: tuple[Trouble, ...], event: AnyEvent) -> tuple[Trouble, ...]:
    """The earlier troubles to show next to that of `event`. Of warnings about short jobs, only the last one stays: they
    must not take the place of failures."""
    if not isinstance(event, kinds.JobPrepared):
        return troubles
    return tuple(each for each in troubles if each.kind != kind_of(event))


def _lasting(progress: Progress) -> tuple[Trouble, ...]:
    """The troubles that a success does not end: they are of another kind, and of this run of the daemon."""
    return tuple(each for each in progress.troubles if each.kind not in PASSING and each.seq > progress.started_seq)


def _with_step(progress: Progress, event: kinds.StepReached) -> Progress:
    pace = progress.pace
    seconds, tokens = event.seconds, float(event.tokens)
    if pace is not None:
        seconds = pace.seconds_per_step + SMOOTHING * (seconds - pace.seconds_per_step)
        tokens = pace.tokens_per_step + SMOOTHING * (tokens - pace.tokens_per_step)
    return replace(progress, last_step=event, pace=Pace(seconds, tokens))


def _with_samples(shown: SampledRound | None, record: Record, before: State) -> SampledRound | None:
    event, job = record.event, before.training.current
    name = job.name if job is not None else ""
    match event:
        case SamplesGenerated(answers=answers):
            return SampledRound(
                at=record.at,
                name=name,
                step=event.step,
                answers=len(answers),
                matched=sum(each.match for each in answers),
                thinking=sum(each.thinks for each in answers),
                think_tag=event.think_tag,
                seconds=event.seconds,
            )
        case SamplesPutOff() | SamplesFailed() | SamplesAbandoned():
            missing = put_off_text(event) if isinstance(event, SamplesPutOff) else event.message
            if shown is None:
                shown = SampledRound(
                    at=record.at, name=name, step=0, answers=0, matched=0, thinking=0, think_tag="", seconds=0.0
                )
            return replace(shown, missing=missing)
        case _:
            return shown


def _with_bytes(progress: Progress, before: State, event: AnyEvent) -> Progress:
    if isinstance(event, kinds.FileEnqueued):
        return _with_more_bytes(progress, before, event.size_bytes)
    if isinstance(event, kinds.JobTrained | kinds.JobSkipped | kinds.JobRejected | kinds.JobFailed):
        job = before.job(event.job)
        size = job.size_bytes if job is not None and job.until is None else 0
        return replace(progress, bytes_done=progress.bytes_done + size)
    if isinstance(event, kinds.JobRemoved):
        waiting = before.queue.get(event.job)  # a failed job counts as done
        remaining = progress.bytes_total - (waiting.size_bytes if waiting is not None else 0)
        return replace(progress, bytes_total=max(progress.bytes_done, remaining))
    if isinstance(event, kinds.JobRetried):
        job = before.job(event.job)
        return _with_more_bytes(progress, before, job.size_bytes if job is not None else 0)
    return progress


def _with_more_bytes(progress: Progress, before: State, size_bytes: int) -> Progress:
    if not before.training.in_progress and not len(before.queue):
        return replace(progress, bytes_total=size_bytes, bytes_done=0)
    return replace(progress, bytes_total=progress.bytes_total + size_bytes)


def _trouble(event: AnyEvent, before: State) -> str | None:
    """The message of a failure or a warning; None if the event is neither."""
    match event:
        case EvaluationDone(concern=concern) if before.training.current is not None:
            return described(event) if is_worse(concern, before.training.current.evaluation.concern) else None
        case kinds.JobPrepared(plan=plan) if plan.steps_total < FEW_STEPS:
            job = before.training.current
            if job is None or job.plan is not None:  # it was said when the job was prepared before
                return None
            return f"{job.name} has only {plan.steps_total} steps; for more: `keepstep explain {job.id[:12]}`"
        case EvaluationAbandoned(failure=failure):
            return f"the worker failed in an evaluation ({failure}); the job continues without it"
        case SamplesFailed(message=message):
            return f"no samples after step {event.step}: {message}"
        case SamplesAbandoned(failure=failure):
            return f"the worker failed while it generated samples ({failure}); the job continues without them"
        case kinds.JobRejected(name=name, message=message):
            return f"{name} was rejected: {message}"
        case kinds.AttemptFailed(failure="disk_full"):
            return None  # `storage_exhausted` follows with the same message
        case kinds.AttemptFailed(message=message) | kinds.JobFailed(message=message):
            return message
        case kinds.DaemonHeld(reason=reason):
            return reason
        case kinds.StorageExhausted(message=message):
            return message
        case kinds.StorageLow(free_bytes=free, wanted_bytes=wanted):
            return f"{free / 1e9:.2f} GB are free on the disk; the config reserves {wanted / 1e9:.2f} GB"
        case MemoryLow(available_bytes=available, total_bytes=total):
            return f"memory was short: {available / 1e9:.1f} of {total / 1e9:.1f} GB were available"
        case ConfigRefused(reason=reason):
            return reason
        case kinds.JournalRepaired(first_seq=first, last_seq=last, problem=problem):
            return f"records {first} to {last} were abandoned by a repair: {problem}"
        case kinds.CheckpointQuarantined(checkpoint=checkpoint, problem=problem):
            return f"{checkpoint} was quarantined: {problem}"
        case kinds.DivergenceDetected(global_step=step, loss=loss, expected_loss=expected):
            return f"step {step} gave another loss when it ran again: {loss} instead of {expected}"
        case kinds.AttemptInterrupted(reason=reason):
            return f"attempt {event.attempt} was interrupted: {reason}"
        case kinds.ConsolidationCancelled(message=message):
            return f"no consolidation: {message}"
        case kinds.VersionEvaluationFailed(failure=str(failure), message=message) if failure != "disk_full":
            return f"the evaluation of {event.version} failed: {message}"
        case kinds.VersionHeld(version=version, reason=reason):
            return f"{version} is held: {reason}"
        case kinds.VersionEvaluated(version=version, worse=worse) if worse and not before.evaluations.hold_of(version):
            return f"{version} is worse than its parent: {worse}"
        case kinds.ConsolidationAborted(failure=str(failure), message=message) if failure != "disk_full":
            return f"the consolidation failed: {message}"
        case _:
            return None
