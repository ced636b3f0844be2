"""Reads the metrics of all steps from a journal, and follows it as it grows."""

from __future__ import annotations

from collections import deque

from cli.home.paths import Home
from events.codec import Record, decode_record
from journal import START, Position, PositionLost, follow_in_batches
from projections.answers.samples import SampleHistory
from projections.answers.self_correction import CorrectionHistory
from projections.evaluation.matrix import EvaluationHistory
from projections.metrics import Metrics


class MetricsReader:
    """The metrics of a home, and its newest records. Takes no lock and changes nothing."""

    def __init__(self, home: Home, records_kept: int = 0, *, with_samples: bool = False) -> None:
        self._home = home
        self.position: Position = START
        self.metrics = Metrics()
        self.samples, self.correction, self.evaluation = SampleHistory(), CorrectionHistory(), EvaluationHistory()
        self._with_samples = with_samples
        self.records: deque[Record] = deque(maxlen=records_kept)

    def catch_up(self) -> bool:
        """Fold the new records. False if the journal was repaired, and everything was read again.

        Raises journal.errors.JournalError.
        """
        try:
            self._fold()
        except PositionLost:  # what was read may no longer be in the journal
            self.position, self.metrics = START, Metrics()
            self.samples, self.correction, self.evaluation = SampleHistory(), CorrectionHistory(), EvaluationHistory()
            self.records.clear()
            self._fold()
            return False
        return True

    def _fold(self) -> None:
        batches = follow_in_batches(self._home.journal, decode_record, self.position, storage=self._home.storage)
        for records, position in batches:
            self.metrics.observe(*records)
            if self._with_samples:
                for record in records:
                    self.samples.observe(record)
                    self.correction.observe(record)
                    self.evaluation.observe(record)
            self.records.extend(records)
            self.position = position
