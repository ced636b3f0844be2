"""Read the state without the lock and without changing anything: the snapshot and the tail of the journal.

Separate from the event store, because `keepstep status` needs only this and must be fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cli.home.paths import Home
from core.errors import IllegalEvent
from events.codec import Record, decode_record
from journal import START, Position, PositionLost, Witness, follow, history
from projections.fold import fold
from projections.progress import Folded
from projections.snapshot import Snapshot, read_snapshot
from projections.status import StatusView, read_status
from projections.status_view import status_view

if TYPE_CHECKING:
    from projections.answers.samples import SamplesChart
    from projections.answers.self_correction import CorrectionChart
    from projections.evaluation.matrix import EvaluationChart


def load_state(home: Home) -> tuple[Folded, Position]:
    """Fold the snapshot and the tail of the journal; the result and its position.

    Raises journal.errors.JournalError.
    """
    snapshot = read_snapshot(home.snapshot, storage=home.storage)
    try:
        return _follow(home, snapshot)
    except (PositionLost, IllegalEvent):
        if snapshot is None:
            raise
        return _follow(home, None)


def read_records(home: Home) -> Iterator[Record]:
    """Every record of the journal, the oldest first. Raises journal.errors.JournalError."""
    return history(home.journal, decode_record, storage=home.storage)


def read_samples(home: Home, prompt: str | None = None, step: int | None = None) -> SamplesChart:
    """The samples in the journal, as `SampleHistory.chart`. Raises journal.errors.JournalError."""
    from projections.answers.samples import SampleHistory

    history = SampleHistory(step)
    for record in read_records(home):
        history.observe(record)
    return history.chart(prompt, step)


def read_correction(home: Home, number: int | None = None) -> CorrectionChart:
    """The rounds of self-correction, as `CorrectionHistory.chart`. Raises journal.errors.JournalError."""
    from projections.answers.self_correction import CorrectionHistory

    history = CorrectionHistory()
    for record in read_records(home):
        history.observe(record)
    return history.chart(number)


def read_evaluation(home: Home) -> EvaluationChart:
    """The evaluations in the journal, as `EvaluationHistory.chart`. Raises journal.errors.JournalError."""
    from projections.evaluation.matrix import EvaluationHistory

    history = EvaluationHistory()
    for record in read_records(home):
        history.observe(record)
    return history.chart()


def load_status(home: Home) -> StatusView:
    """Fold the status from the journal, for when the status file is out of date. Raises journal.errors.JournalError."""
    folded, position = load_state(home)
    shown = read_status(home.status, storage=home.storage)
    beat = shown.daemon.heartbeat_at if shown else 0.0
    return status_view(folded, seq=position.seq, crc=position.crc, heartbeat_at=beat)


def _follow(home: Home, snapshot: Snapshot | None) -> tuple[Folded, Position]:
    records, position = follow(home.journal, decode_record, position_of(snapshot) or START, storage=home.storage)
    folded = snapshot.folded if snapshot else Folded()
    for record in records:
        folded = fold(folded, record)
    return folded, position


def witnesses(home: Home, snapshot: Snapshot | None = None) -> list[Witness]:
    """The views that name a record of the journal, for recovery. Reads the snapshot unless it is given."""
    found = []
    if status := read_status(home.status, storage=home.storage):
        found.append(Witness("status/status.json", status.seq, status.crc))
    snapshot = snapshot or read_snapshot(home.snapshot, storage=home.storage)
    if snapshot is not None:
        found.append(Witness("status/snapshot.json", snapshot.seq, snapshot.crc))
    return found


def position_of(snapshot: Snapshot | None) -> Position | None:
    """Where to continue to read the journal; None: at its start."""
    return Position(snapshot.seq, snapshot.crc, snapshot.segment, snapshot.offset) if snapshot else None
