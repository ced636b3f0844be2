"""Follows the journal for the monitor: the metrics of all steps, and the newest records for its stream.

It only reads. One lock guards it, because the server answers requests in threads.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from cli.home.metrics_reader import MetricsReader
from cli.home.paths import Home
from events.codec import Record, kind_of
from projections.answers.samples import SamplesChart
from projections.answers.self_correction import CorrectionChart
from projections.evaluation.matrix import EvaluationChart
from projections.metrics import Chart

RECORDS_KEPT = 5_000
"""Records that are kept. A browser that missed more loads the page again."""

RECORDS_AT_ONCE = 500
"""Records of one message of the stream."""


class ShownRecord(Struct, frozen=True, gc=False):
    """A record as the page gets it."""

    seq: int
    at: str
    kind: str
    event: dict[str, Any]


class Batch(NamedTuple):
    """Records after a place in the journal."""

    records: list[ShownRecord]
    lost: bool
    """True if records between the place and the first one are no longer kept: load everything again."""


class Feed:
    """The metrics and the newest records of one home's journal."""

    def __init__(self, home: Home) -> None:
        self._lock = threading.Lock()
        self._reader = MetricsReader(home, RECORDS_KEPT, with_samples=True)

    def catch_up(self) -> int:
        """Fold the new records. Returns the number of the last one. Raises journal.errors.JournalError."""
        with self._lock:
            self._reader.catch_up()
            return self._reader.position.seq

    def chart(self, first: int | None, last: int | None, points: int) -> Chart:
        """The metrics of a range of steps, as `Metrics.chart`."""
        with self._lock:
            return self._reader.metrics.chart(first, last, points)

    def samples(self, prompt: str | None, step: int | None) -> SamplesChart:
        """The samples of all steps, as `SampleHistory.chart`."""
        with self._lock:
            return self._reader.samples.chart(prompt, step)

    def correction(self, number: int | None) -> CorrectionChart:
        """Self-correction, as `CorrectionHistory.chart`."""
        with self._lock:
            return self._reader.correction.chart(number)

    def evaluation(self) -> EvaluationChart:
        """The matrix of scores and the results of versions, as `EvaluationHistory.chart`."""
        with self._lock:
            return self._reader.evaluation.chart()

    def after(self, seq: int) -> Batch:
        """At most RECORDS_AT_ONCE records after `seq`."""
        with self._lock:
            kept, last = self._reader.records, self._reader.position.seq
            oldest = kept[0].seq if kept else last + 1
            lost = seq < oldest - 1 or seq > last
            records = [record for record in kept if record.seq > seq]
        return Batch([_shown(record) for record in records[:RECORDS_AT_ONCE]], lost)

    def tail(self, number: int, kind: str | None) -> list[ShownRecord]:
        """The newest records, the oldest first; of one kind if it is named."""
        with self._lock:
            found = [record for record in self._reader.records if kind is None or kind_of(record.event) == kind]
        return [_shown(record) for record in found[-number:]] if number > 0 else []


def _shown(record: Record) -> ShownRecord:
    event = msgspec.to_builtins(record.event)
    del event["kind"]
    return ShownRecord(record.seq, record.at, kind_of(record.event), event)
