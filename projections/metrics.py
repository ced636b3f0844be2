"""Metrics by step: loss, learning rate, gradient norm, speed, and evaluations, for charts.

The fold keeps one number for each step and metric in a compact array. A chart asks for a range of steps and for a
number of points; each point is then the smallest, the largest and the mean value of some consecutive steps.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from datetime import datetime
from typing import Final

from msgspec import Struct

from events import kinds
from events.codec import Record
from events.values import Number

POINTS_MAX = 4_000
"""Points of one answer: about the pixels of a wide screen."""

SERIES: Final = ("loss", "learning_rate", "grad_norm", "tokens_per_s")

NAN = math.nan

BLOCK = 64
"""Steps that are summed up once. A bucket of n steps then reads n / 64 blocks and at most 126 single steps."""


class Bucket(Struct, frozen=True, gc=False, array_like=True):
    """Consecutive steps as one point. None: no step of the bucket has a number (a skipped batch has loss NaN)."""

    low: float | None
    high: float | None
    mean: float | None


class EvaluationPoint(Struct, frozen=True, gc=False):
    """An evaluation on held-out rows."""

    global_step: int
    loss: float | None
    """Nats per token; None: the loss is not a number."""
    training_loss: float | None


class Chart(Struct, frozen=True, kw_only=True):
    """The metrics of a range of steps. All lists have the length of `steps`."""

    seq: int
    """The last record that the chart shows."""
    first: int | None
    last: int | None
    """The range of steps that exists; None: no step was trained yet."""
    not_numbers: int
    """Steps of the range without a finite loss."""
    steps: list[int]
    """The last step of each bucket."""
    at: list[float]
    """When that step was reached: Unix time, seconds."""
    series: dict[str, list[Bucket]]
    evaluations: list[EvaluationPoint]


class Column:
    """One metric by step, with lowest, highest and sum of each BLOCK of steps, so that a bucket reads few numbers.

    A value that is not a finite number is NaN: it is part of no bucket.
    """

    def __init__(self) -> None:
        self._values = array("d")
        self._blocks: list[tuple[float, float, float, int]] = []

    def append(self, value: Number) -> None:
        """Add the value of the next step."""
        self._values.append(value if isinstance(value, float | int) and math.isfinite(value) else NAN)
        if len(self._values) % BLOCK == 0:
            self._blocks.append(_summary(self._values[-BLOCK:]))

    def cut(self, length: int) -> None:
        """Forget all but the first `length` values."""
        del self._values[length:]
        del self._blocks[length // BLOCK :]

    def summary(self, start: int, stop: int) -> tuple[float, float, float, int]:
        """Lowest, highest, sum and number of the finite values from `start` to before `stop`."""
        first, last = -(-start // BLOCK), stop // BLOCK
        if first >= last:
            return _summary(self._values[start:stop])
        parts = [
            _summary(self._values[start : first * BLOCK]),
            *self._blocks[first:last],
            _summary(self._values[last * BLOCK : stop]),
        ]
        lows, highs, sums, counts = zip(*parts, strict=True)
        return min(lows), max(highs), sum(sums), sum(counts)

    def bucket(self, start: int, stop: int) -> Bucket:
        """The values from `start` to before `stop` as one point."""
        low, high, total, count = self.summary(start, stop)
        return Bucket(low, high, total / count) if count else Bucket(None, None, None)


def _summary(values: array[float]) -> tuple[float, float, float, int]:
    finite = values if math.isfinite(sum(values)) else [value for value in values if not math.isnan(value)]
    if not finite:
        return math.inf, -math.inf, 0.0, 0
    return min(finite), max(finite), sum(finite), len(finite)


class Metrics:
    """The fold. A step that runs again, or that follows a rollback, replaces what was known from this step on."""

    def __init__(self) -> None:
        self.seq = 0
        self._steps = array("q")
        self._at = array("d")
        self._columns = {name: Column() for name in SERIES}
        self._evaluations: list[EvaluationPoint] = []

    def observe(self, record: Record) -> None:
        """Fold one record."""
        self.seq = record.seq
        event = record.event
        if isinstance(event, kinds.StepReached):
            self._add_step(record.at, event)
        elif isinstance(event, kinds.EvaluationDone):
            point = EvaluationPoint(event.global_step, _finite(event.loss), _finite(event.training_loss))
            keep = bisect_left(self._evaluations, point.global_step, key=lambda each: each.global_step)
            del self._evaluations[keep:]
            self._evaluations.append(point)

    def _add_step(self, at: str, event: kinds.StepReached) -> None:
        step = event.global_step
        if self._steps and step <= self._steps[-1]:
            self._forget_from(step)
        self._steps.append(step)
        self._at.append(datetime.fromisoformat(at).timestamp())
        speed = event.tokens / event.seconds if event.seconds > 0 else NAN
        values = (event.loss, event.learning_rate, event.grad_norm, speed)
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)

    def _forget_from(self, step: int) -> None:
        keep = bisect_left(self._steps, step)
        del self._steps[keep:], self._at[keep:]
        for column in self._columns.values():
            column.cut(keep)
        self._evaluations = [each for each in self._evaluations if each.global_step < step]

    def chart(self, first: int | None = None, last: int | None = None, points: int = 1_000) -> Chart:
        """The metrics of the steps from `first` to `last`, both included, in at most `points` buckets.

        `points` is held to 1 … POINTS_MAX.
        """
        points = max(1, min(points, POINTS_MAX))
        begin = 0 if first is None else bisect_left(self._steps, first)
        end = len(self._steps) if last is None else bisect_right(self._steps, last)
        size = max(1, -(-(end - begin) // points))
        edges = [(start, min(start + size, end)) for start in range(begin, end, size)]
        return Chart(
            seq=self.seq,
            first=self._steps[0] if self._steps else None,
            last=self._steps[-1] if self._steps else None,
            not_numbers=max(0, end - begin) - self._columns["loss"].summary(begin, end)[3],
            steps=[self._steps[stop - 1] for _, stop in edges],
            at=[self._at[stop - 1] for _, stop in edges],
            series={name: [column.bucket(*edge) for edge in edges] for name, column in self._columns.items()},
            evaluations=[
                each
                for each in self._evaluations
                if (first is None or each.global_step >= first) and (last is None or each.global_step <= last)
            ],
        )


def _finite(value: Number | None) -> float | None:
    return value if isinstance(value, float | int) and math.isfinite(value) else None
