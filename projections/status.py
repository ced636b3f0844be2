"""The status file: what keepstep does now, for people and for scripts.

It carries the (seq, crc) of the last record it has seen, and the identity and heartbeat of the daemon that wrote
it, so that a reader can tell a living word from a dead one.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from core.evaluation import gap_of
from core.job import Job
from core.state import ConfigError, Counts, DiskFull, Hold, MemoryShortage, State
from events.upkeep import WatchCostMeasured
from events.values import PRIORITIES, Number
from events.worker import Heartbeat
from journal import durable
from journal.storage import REAL, Storage
from projections.checksum import read_checked, with_checksum
from projections.progress import Evaluated, Folded, Progress, Trouble

QUEUE_SHOWN = 20
"""The status stays small however long the queue; `keepstep queue` lists it whole."""


class DaemonView(Struct, frozen=True, kw_only=True):
    """Who wrote this, and when it was last heard of."""

    status: str
    since: str
    pid: int
    process_started_at: float
    boot_id: str
    host: str
    heartbeat_at: float
    """Unix time, seconds. Older than a few beats, or another process behind the pid: nothing runs."""


class JobView(Struct, frozen=True, kw_only=True):
    """The job in hand."""

    id: str
    name: str
    status: str
    attempt: int | None
    step: int
    steps_total: int | None
    progress: float
    """0 to 1, of this file."""
    epoch: int | None
    loss: Number | None
    learning_rate: float | None
    tokens_per_s: float | None
    eta_s: float | None
    """Until this file is learned."""
    retry_at: float | None
    rows_prepared: tuple[int, int] | None = None
    """While it is prepared: how many rows of about how many; as the worker said last, not journaled."""
    rows_evaluated: tuple[int, int] | None = None
    """While the loss on rows that are not learned is computed, the same."""


class LanesView(Struct, frozen=True, kw_only=True):
    """How many wait in each lane, held ones too."""

    high: int
    normal: int
    low: int


class WaitingView(Struct, frozen=True, kw_only=True):
    """A job that waits."""

    id: str
    name: str
    priority: str
    size_bytes: int


class QueueView(Struct, frozen=True, kw_only=True):
    """What waits: how many, how many of them are held, and those that are taken next."""

    waiting: int
    held: int
    lanes: LanesView
    next: tuple[WaitingView, ...]
    progress: float
    """0 to 1, of all files since the queue was last empty, by their length."""
    eta_s: float | None


class ConsolidationView(Struct, frozen=True, kw_only=True):
    """A version that is being made, or waits to be."""

    status: str
    """wanted, or how far it is."""
    version: str | None
    description: str
    retry_at: float | None


class VersionView(Struct, frozen=True, kw_only=True):
    """What is trained beside."""

    id: str
    global_step: int
    made_at: float
    """Unix time, seconds."""
    description: str


class CheckpointView(Struct, frozen=True, kw_only=True):
    """The last commit."""

    id: str
    global_step: int
    size_bytes: int


class ValidationView(Struct, frozen=True, kw_only=True):
    """How the job that was evaluated last did on rows that it does not learn."""

    name: str
    """Of its file."""
    at: str
    step: int
    loss: Number
    training_loss: Number | None
    gap: float | None
    """The one less the other, nats."""
    concern: str | None
    rows: int


class FailedView(Struct, frozen=True, kw_only=True):
    """A job that was given up and can be retried."""

    id: str
    name: str


class WatchingView(Struct, frozen=True, kw_only=True):
    """What the daemon itself takes, as last measured."""

    share: float | None
    """Its CPU seconds for each second that an attempt ran; None: none did."""
    cpu_s: float
    """Of the whole time that was measured, `wall_s`."""
    wall_s: float
    most: str | None
    """What costs most."""
    parts: dict[str, float]
    """CPU seconds of each."""


class StatusView(Struct, frozen=True, kw_only=True):
    """The whole status file."""

    seq: int
    crc: str
    daemon: DaemonView
    global_step: int
    """Committed."""
    job: JobView | None
    queue: QueueView
    version: VersionView | None
    """None: the origin."""
    checkpoint: CheckpointView | None
    """What was learned beside it; None: nothing yet."""
    consolidation: ConsolidationView | None
    hold: Hold | None
    full: DiskFull | None
    low: bool
    """Less is free on the disk than the config wants left alone."""
    short: MemoryShortage | None
    """Others use the memory: nothing is begun."""
    config_error: ConfigError | None
    """keepstep.toml was edited and is not used as it is."""
    validation: ValidationView | None
    """None: nothing was evaluated yet."""
    failed: tuple[FailedView, ...]
    counts: Counts
    troubles: tuple[Trouble, ...]
    watching: WatchingView | None = None
    """None: not measured yet."""


def status_view(
    folded: Folded, *, seq: int, crc: str, heartbeat_at: float, received: Heartbeat | None = None
) -> StatusView:
    """What the status file says. Pure; costs the same however long the queue and the history. `received`: the last sign
    of progress of the worker, which is no event."""
    state, progress = folded.state, folded.progress
    job = _job_view(state, progress)
    if job is not None and received is not None and received.attempt == job.attempt:
        rows = (received.done, received.total)
        if (received.phase, job.status) == ("prepare", "preparing"):
            job = replace(job, rows_prepared=rows)
        elif (received.phase, job.status) == ("evaluate", "training"):
            job = replace(job, rows_evaluated=rows)
    done, eta_s = _queue_progress(state, progress, job)
    daemon, head = state.daemon, state.head
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
        ),
        global_step=state.global_step,
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
        hold=state.hold,
        full=state.full,
        low=state.low,
        short=state.short,
        config_error=state.config_error,
        validation=_validation_view(progress.evaluated),
        failed=tuple(FailedView(id=job.id, name=job.name) for job in islice(state.failed.values(), QUEUE_SHOWN)),
        counts=state.counts,
        troubles=progress.troubles,
        watching=_watching_view(progress.watching),
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


def _watching_view(cost: WatchCostMeasured | None) -> WatchingView | None:
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
    base = state.version(state.base)
    if base is None:
        return None
    return VersionView(id=base.id, global_step=base.global_step, made_at=base.made_at, description=base.description)


def _consolidation_view(state: State) -> ConsolidationView | None:
    consolidation_request, running = state.consolidation_request, state.consolidation
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
    job = state.current
    if job is None:
        return None
    step = state.reached.step if state.attempt is not None else job.committed_step
    last, pace = progress.last_step, progress.pace
    left = job.goal - step if job.goal is not None else None
    return JobView(
        id=job.id,
        name=job.name,
        status=job.status,
        attempt=state.attempt,
        step=step,
        steps_total=job.goal,
        progress=step / job.goal if job.goal else 0.0,
        epoch=last.epoch if last else None,
        loss=last.loss if last else None,
        learning_rate=last.learning_rate if last else None,
        tokens_per_s=pace.tokens_per_step / pace.seconds_per_step if pace and pace.seconds_per_step > 0 else None,
        eta_s=left * pace.seconds_per_step if pace and left is not None else None,
        retry_at=job.retry_at,
    )


def _queue_progress(state: State, progress: Progress, job: JobView | None) -> tuple[float, float | None]:
    """The share of the whole queue that is done, and the seconds that the rest will take."""
    current = state.current
    of_current = job.progress * current.size_bytes if job and current and current.until is None else 0.0
    done_bytes = min(progress.bytes_total, progress.bytes_done + of_current)
    done = done_bytes / progress.bytes_total if progress.bytes_total else 1.0
    if job is None or job.eta_s is None or current is None or not current.plan or not current.size_bytes:
        return done, None
    pace = progress.pace
    assert pace is not None  # there is no eta without it
    seconds_per_byte = pace.seconds_per_step * current.plan.steps_total / current.size_bytes
    # A stretch that is run again belongs to a file that was counted as done, or that waits behind it.
    of_this_file = current.size_bytes if current.until is None else 0
    waiting_bytes = max(0.0, progress.bytes_total - progress.bytes_done - of_this_file)
    return done, job.eta_s + waiting_bytes * seconds_per_byte


def write_status(path: Path, view: StatusView, *, storage: Storage = REAL) -> None:
    """Replace the status file. Readers see the old one or the new one, whole."""
    data = with_checksum(msgspec.json.format(msgspec.json.encode(view), indent=2))
    durable.write_atomically(path, data, sync=False, storage=storage)


def read_status(path: Path, *, storage: Storage = REAL) -> StatusView | None:
    """The status file; None if it is missing or is not one."""
    return read_checked(path, _decoder, storage)


_decoder: msgspec.json.Decoder[StatusView] = msgspec.json.Decoder(StatusView)


def plain(view: Any) -> Any:
    """A view as dicts and lists, for `--json` and for merging with what only the reader knows."""
    return msgspec.to_builtins(view)
