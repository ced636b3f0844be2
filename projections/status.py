"""The status file: what keepstep does now, for people and scripts.

It carries the (seq, crc) of the last record that it shows, and the identity and heartbeat of the daemon that wrote it.
A reader can therefore tell whether the status is current.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from core.structures.situations import ConfigError, Counts, DiskFull, Hold, MemoryShortage
from events.evaluation import QuestionScore
from events.values import Number
from journal import durable
from journal.storage import REAL, Storage
from projections.checksum import read_checked, with_checksum
from projections.trouble import Trouble

QUEUE_SHOWN = 20
"""Limits the size of the status; `keepstep queue` lists the whole queue."""


class DaemonView(Struct, frozen=True, kw_only=True):
    """The daemon that wrote the status, and its last heartbeat."""

    status: str
    since: str
    pid: int
    process_started_at: float
    boot_id: str
    host: str
    heartbeat_at: float
    """Unix time, seconds. No daemon runs if it is older than a few heartbeats or the pid has another process."""
    stop_reason: str = ""
    """Why the last daemon stopped; "": one runs, or it died."""


class JobView(Struct, frozen=True, kw_only=True):
    """The current job."""

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
    """Seconds until this file is trained."""
    retry_at: float | None
    rows_prepared: tuple[int, int] | None = None
    """While the file is prepared: rows done, and about how many in all. From the worker's last heartbeat."""
    rows_evaluated: tuple[int, int] | None = None
    """During an evaluation, the same for held-out rows."""
    replay: str = ""
    """Which share of earlier files it replays and why; "": the share is not automatic."""
    tokens_sampled: tuple[int, int] | None = None
    """While samples are generated: the tokens of each answer so far, and the most of all batches."""


class LanesView(Struct, frozen=True, kw_only=True):
    """Waiting jobs in each lane, including held ones."""

    high: int
    normal: int
    low: int


class WaitingView(Struct, frozen=True, kw_only=True):
    """A waiting job."""

    id: str
    name: str
    priority: str
    size_bytes: int


class QueueView(Struct, frozen=True, kw_only=True):
    """The queue: the number of waiting jobs, of held ones among them, and the next jobs."""

    waiting: int
    held: int
    lanes: LanesView
    next: tuple[WaitingView, ...]
    progress: float
    """0 to 1, of all files since the queue was last empty, by size."""
    eta_s: float | None


class ConsolidationView(Struct, frozen=True, kw_only=True):
    """A consolidation that runs or waits."""

    status: str
    """`wanted` before it starts, then its current part."""
    version: str | None
    description: str
    retry_at: float | None


class VersionView(Struct, frozen=True, kw_only=True):
    """The version that is the base of training."""

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
    """The last evaluation on held-out rows."""

    name: str
    """The name of the file."""
    at: str
    step: int
    loss: Number
    training_loss: Number | None
    gap: float | None
    """`loss` minus `training_loss`, nats."""
    concern: str | None
    rows: int


class SamplesView(Struct, frozen=True, kw_only=True):
    """The last samples."""

    name: str
    """The name of the file."""
    at: str
    step: int
    answers: int
    """0: there were none yet."""
    matched: int
    """Answers that are as expected."""
    thinking: int
    """Answers with the think tag."""
    think_tag: str
    seconds: float
    cost: float | None
    """Seconds of all samples as a share of those of all steps; None: no step was trained."""
    asked: bool
    """Samples are requested for the next step."""
    missing: str
    """Why newer samples are missing; "": they are not."""


class CorrectionView(Struct, frozen=True, kw_only=True):
    """Self-correction."""

    rounds: int
    waiting: int
    """Rows that wait for a file."""
    files: int
    pass_rate: float | None
    """Share of right answers in the last rounds; None: there were none."""
    distinct: float | None
    """distinct-2 of the answers, the same."""
    cost: float | None
    """Seconds of all rounds as a share of those of all steps; None: no step was trained."""
    stopped: str
    """Why it stopped itself; "": it did not."""
    waits: str
    """Why no prompt is answered now, if self-correction is on; "": the next round may come."""


class EvaluationView(Struct, frozen=True, kw_only=True):
    """The evaluation at the end of the last job, and versions that wait."""

    name: str
    """The name of the file; "": no job was evaluated yet."""
    at: str
    files: int
    """Files whose held-out rows were scored."""
    loss: float | None
    """Mean over the files, nats per token."""
    questions: QuestionScore
    problem: str
    """What could not be measured; "": nothing."""
    pending: tuple[str, ...]
    """Versions that are to be evaluated, or are being evaluated."""
    held: tuple[str, ...]
    """Versions that are held."""


class FailedView(Struct, frozen=True, kw_only=True):
    """A job that failed permanently; `keepstep retry` tries it again."""

    id: str
    name: str


class WatchingView(Struct, frozen=True, kw_only=True):
    """The cost of the daemon itself, as last measured."""

    share: float | None
    """CPU seconds per second of a running attempt; None: no attempt ran."""
    cpu_s: float
    """CPU seconds in the measured time, `wall_s`."""
    wall_s: float
    most: str | None
    """The most expensive part."""
    parts: dict[str, float]
    """CPU seconds of each part."""


class StatusView(Struct, frozen=True, kw_only=True):
    """The whole status file."""

    seq: int
    crc: str
    daemon: DaemonView
    global_step: int
    """The last committed step."""
    job: JobView | None
    queue: QueueView
    version: VersionView | None
    """None: the origin."""
    checkpoint: CheckpointView | None
    """The head; None: nothing was trained on this base yet."""
    consolidation: ConsolidationView | None
    hold: Hold | None
    full: DiskFull | None
    low: bool
    """True if less is free on the disk than the config reserves."""
    short: MemoryShortage | None
    """Other programs use the memory, so no job starts; None: there is enough."""
    config_error: ConfigError | None
    """keepstep.toml has an error, so the last valid config is used; None: it has none."""
    validation: ValidationView | None
    """None: nothing was evaluated yet."""
    failed: tuple[FailedView, ...]
    counts: Counts
    troubles: tuple[Trouble, ...]
    watching: WatchingView | None = None
    """None: not measured yet."""
    samples: SamplesView | None = None
    """None: no samples were due yet."""
    self_correction: CorrectionView | None = None
    """None: there was no round yet."""
    evaluation: EvaluationView | None = None
    """None: no job was evaluated yet, and no version waits."""


def write_status(path: Path, view: StatusView, *, storage: Storage = REAL) -> None:
    """Replace the status file. A reader sees either the old or the new one."""
    data = with_checksum(msgspec.json.format(msgspec.json.encode(view), indent=2))
    durable.write_atomically(path, data, sync=False, storage=storage)


def read_status(path: Path, *, storage: Storage = REAL) -> StatusView | None:
    """The view in the status file; None if it is missing or damaged."""
    return read_checked(path, _decoder, storage)


_decoder: msgspec.json.Decoder[StatusView] = msgspec.json.Decoder(StatusView)


def plain(view: Any) -> Any:
    """A view as dicts and lists, for `--json`, to which the reader may add fields."""
    return msgspec.to_builtins(view)
