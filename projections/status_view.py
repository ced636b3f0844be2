"""Make the status view of the folded journal. Pure; its cost does not grow with the queue or the history."""

from __future__ import annotations

from itertools import islice

from msgspec.structs import replace

from core.job import Job
from core.state import State
from core.topics.evaluation.replay_share import described
from core.topics.evaluation.self_correction import why_not_now
from core.topics.evaluation.validation import gap_of
from events.evaluation import QuestionScore
from events.kinds import OverheadMeasured
from events.messages import Heartbeat
from events.values import PRIORITIES
from projections.progress import Evaluated, Folded, Progress
from projections.status import (
    QUEUE_SHOWN,
    CheckpointView,
    ConsolidationView,
    CorrectionView,
    DaemonView,
    EvaluationView,
    FailedView,
    JobView,
    LanesView,
    QueueView,
    SamplesView,
    StatusView,
    ValidationView,
    VersionView,
    WaitingView,
    WatchingView,
)


def status_view(
    folded: Folded, *, seq: int, crc: str, heartbeat_at: float, received: Heartbeat | None = None
) -> StatusView:
    """The status view. Pure; its cost does not grow with the queue or the history.

    `received`: the last heartbeat of the worker, which is not journaled.
    """
    state, progress = folded.state, folded.progress
    job = _job_view(state, progress)
    if job is not None and received is not None and received.attempt == job.attempt:
        rows = (received.done, received.total)
        if (received.phase, job.status) == ("prepare", "preparing"):
            job = replace(job, rows_prepared=rows)
        elif (received.phase, job.status) == ("evaluate", "training"):
            job = replace(job, rows_evaluated=rows)
        elif (received.phase, job.status) == ("sample", "training"):
            job = replace(job, tokens_sampled=rows)
    done, eta_s = _queue_progress(state, progress, job)
    daemon, head = state.daemon, state.head.checkpoint
    return StatusView(
        seq=seq,
        crc=crc,
        daemon=DaemonView(
            status=daemon.status,
            since=progress.doing_since,
            pid=daemon.pid,
            process_started_at=daemon.process_started_at,
            boot_id=daemon.boot_id,
            host=daemon.host,
            heartbeat_at=heartbeat_at,
            stop_reason=progress.stop_reason,
        ),
        global_step=state.head.global_step,
        job=job,
        queue=QueueView(
            waiting=len(state.queue),
            held=state.queue.held,
            lanes=LanesView(**{name: state.queue.lane(name).length for name in PRIORITIES}),
            next=tuple(_waiting_view(waiting) for waiting in islice(state.queue.ready(), QUEUE_SHOWN)),
            progress=done,
            eta_s=eta_s,
        ),
        version=_version_view(state),
        consolidation=_consolidation_view(state),
        checkpoint=(
            CheckpointView(id=head.id, global_step=head.global_step, size_bytes=head.size_bytes) if head else None
        ),
        hold=state.daemon.hold,
        full=state.disk.full,
        low=state.disk.low,
        short=state.memory.shortage,
        config_error=state.config.error,
        validation=_validation_view(progress.evaluated),
        failed=tuple(
            FailedView(id=job.id, name=job.name) for job in islice(state.outcomes.failed.values(), QUEUE_SHOWN)
        ),
        counts=state.outcomes.counts,
        troubles=progress.troubles,
        watching=_watching_view(progress.watching),
        samples=_samples_view(state, progress),
        self_correction=_correction_view(state),
        evaluation=_evaluation_view(state, progress),
    )


def _validation_view(evaluated: Evaluated | None) -> ValidationView | None:
    if evaluated is None:
        return None
    found = evaluated.found
    return ValidationView(
        name=evaluated.name,
        at=evaluated.at,
        step=found.step,
        loss=found.loss,
        training_loss=found.training_loss,
        gap=gap_of(found.loss, found.training_loss),
        concern=found.concern,
        rows=found.rows,
    )


def _samples_view(state: State, progress: Progress) -> SamplesView | None:
    found = progress.sampled
    if found is None:
        return None
    trained_s = state.attempts.trained_s
    return SamplesView(
        name=found.name,
        at=found.at,
        step=found.step,
        answers=found.answers,
        matched=found.matched,
        thinking=found.thinking,
        think_tag=found.think_tag,
        seconds=found.seconds,
        cost=state.samples.spent_s / trained_s if trained_s > 0 else None,
        asked=state.samples.asked,
        missing=found.missing,
    )


def _correction_view(state: State) -> CorrectionView | None:
    own, trained_s = state.self_correction, state.attempts.trained_s
    if not own.rounds and not own.stopped:
        return None
    count = len(own.recent)
    return CorrectionView(
        rounds=own.rounds,
        waiting=own.waiting,
        files=own.files,
        pass_rate=sum(each.pass_rate for each in own.recent) / count if count else None,
        distinct=sum(each.distinct for each in own.recent) / count if count else None,
        cost=own.spent_s / trained_s if trained_s > 0 else None,
        stopped=own.stopped,
        waits=why_not_now(state) or "",
    )


def _evaluation_view(state: State, progress: Progress) -> EvaluationView | None:
    found, evaluations = progress.measured, state.evaluations
    pending = tuple(each.version for each in evaluations.pending)
    held = tuple(each.version for each in evaluations.held if each.version not in pending)
    if found is None and not pending and not held:
        return None
    return EvaluationView(
        name=found.name if found is not None else "",
        at=found.at if found is not None else "",
        files=found.files if found is not None else 0,
        loss=found.loss if found is not None else None,
        questions=found.questions if found is not None else QuestionScore(),
        problem=found.problem if found is not None else "",
        pending=pending,
        held=held,
    )


def _watching_view(cost: OverheadMeasured | None) -> WatchingView | None:
    if cost is None:
        return None
    return WatchingView(
        share=cost.training_cpu_s / cost.training_s if cost.training_s > 0 else None,
        cpu_s=cost.cpu_s,
        wall_s=cost.wall_s,
        most=max(cost.parts, key=cost.parts.__getitem__, default=None),
        parts=cost.parts,
    )


def _version_view(state: State) -> VersionView | None:
    base = state.retention.version(state.head.base)
    if base is None:
        return None
    return VersionView(id=base.id, global_step=base.global_step, made_at=base.made_at, description=base.description)


def _consolidation_view(state: State) -> ConsolidationView | None:
    consolidation_request, running = state.consolidation.request, state.consolidation.running
    if consolidation_request is None:
        return None
    return ConsolidationView(
        status=running.status if running is not None else "wanted",
        version=running.version if running is not None else None,
        description=consolidation_request.description,
        retry_at=consolidation_request.retry_at,
    )


def _waiting_view(job: Job) -> WaitingView:
    return WaitingView(id=job.id, name=job.name, priority=job.priority, size_bytes=job.size_bytes)


def _job_view(state: State, progress: Progress) -> JobView | None:
    job = state.training.current
    if job is None:
        return None
    step = state.attempts.reached.step if state.attempts.current is not None else job.committed_step
    last, pace = progress.last_step, progress.pace
    left = job.goal - step if job.goal is not None else None
    return JobView(
        id=job.id,
        name=job.name,
        status=job.status,
        attempt=state.attempts.current,
        step=step,
        steps_total=job.goal,
        progress=step / job.goal if job.goal else 0.0,
        epoch=last.epoch if last else None,
        loss=last.loss if last else None,
        learning_rate=last.learning_rate if last else None,
        tokens_per_s=pace.tokens_per_step / pace.seconds_per_step if pace and pace.seconds_per_step > 0 else None,
        eta_s=left * pace.seconds_per_step if pace and left is not None else None,
        retry_at=job.retry_at,
        replay=described(job.settings) if job.settings is not None else "",
    )


def _queue_progress(state: State, progress: Progress, job: JobView | None) -> tuple[float, float | None]:
    """The share of the whole queue that is done, and the seconds that the rest will take."""
    current = state.training.current
    of_current = job.progress * current.size_bytes if job and current and current.until is None else 0.0
    done_bytes = min(progress.bytes_total, progress.bytes_done + of_current)
    done = done_bytes / progress.bytes_total if progress.bytes_total else 1.0
    if job is None or job.eta_s is None or current is None or not current.plan or not current.size_bytes:
        return done, None
    pace = progress.pace
    assert pace is not None  # there is no eta without it
    seconds_per_byte = pace.seconds_per_step * current.plan.steps_total / current.size_bytes
    # The file of a replay range is counted as done already, or waits in the queue.
    of_this_file = current.size_bytes if current.until is None else 0
    waiting_bytes = max(0.0, progress.bytes_total - progress.bytes_done - of_this_file)
    return done, job.eta_s + waiting_bytes * seconds_per_byte
