"""Follows the journal for the monitor: the metrics of all steps, and the newest records for its stream.

It only reads. One lock guards it, because the server answers requests in threads.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from cli.home.paths import Home
from events.codec import Record, decode_record, kind_of
from journal import START, Position, PositionLost, follow
from projections.metrics import Chart, Metrics
from projections.samples import SampleHistory, SamplesChart

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
        self._home = home
        self._lock = threading.Lock()
        self._position: Position = START
        self._metrics, self._samples = Metrics(), SampleHistory()
        self._records: deque[ShownRecord] = deque(maxlen=RECORDS_KEPT)

    def catch_up(self) -> int:
        """Fold the new records. Returns the number of the last one. Raises journal.errors.JournalError."""
        with self._lock:
            try:
                records, position = follow(
                    self._home.journal, decode_record, self._position, storage=self._home.storage
                )
            except PositionLost:  # the journal was repaired: what was shown may no longer be in it
                self._metrics, self._samples, self._position = Metrics(), SampleHistory(), START
                self._records.clear()
                records, position = follow(self._home.journal, decode_record, storage=self._home.storage)
            for record in records:
                self._metrics.observe(record)
                self._samples.observe(record)
            self._records.extend(_shown(record) for record in records[-RECORDS_KEPT:])
            self._position = position
            return position.seq

    def chart(self, first: int | None, last: int | None, points: int) -> Chart:
        """The metrics of a range of steps, as `Metrics.chart`."""
        with self._lock:
            return self._metrics.chart(first, last, points)

    def samples(self, prompt: str | None, step: int | None) -> SamplesChart:
        """The samples of all steps, as `SampleHistory.chart`."""
        with self._lock:
            return self._samples.chart(prompt, step)

    def after(self, seq: int) -> Batch:
        """At most RECORDS_AT_ONCE records after `seq`."""
        with self._lock:
            oldest = self._records[0].seq if self._records else self._position.seq + 1
            lost = seq < oldest - 1 or seq > self._position.seq
            records = [record for record in self._records if record.seq > seq]
            return Batch(records[:RECORDS_AT_ONCE], lost)

    def tail(self, number: int, kind: str | None) -> list[ShownRecord]:
        """The newest records, the oldest first; of one kind if it is named."""
        with self._lock:
            found = [record for record in self._records if kind is None or record.kind == kind]
            return found[-number:] if number > 0 else []


def _shown(record: Record) -> ShownRecord:
    event = msgspec.to_builtins(record.event)
    del event["kind"]
    return ShownRecord(record.seq, record.at, kind_of(record.event), event)
