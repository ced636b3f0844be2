"""Metrics by step: loss, learning rate, gradient norm, speed, and evaluations, for charts.

The fold keeps one number for each step and metric in a compact array. A chart asks for a range of steps and for a
number of points; each point is then the smallest, the largest and the mean value of some consecutive steps. The cost of
an answer is a few C loops over the range, so a million steps take a fraction of a second.
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


class Metrics:
    """The fold. A step that runs again, or that follows a rollback, replaces what was known from this step on."""

    def __init__(self) -> None:
        self.seq = 0
        self._steps = array("q")
        self._at = array("d")
        self._values = {name: array("d") for name in SERIES}
        self._gaps = {name: list[int]() for name in SERIES}
        """Steps at which a metric is not a finite number. Its array holds 0.0 there, which keeps min and max fast."""
        self._evaluations: list[EvaluationPoint] = []

    def __len__(self) -> int:
        """The number of steps."""
        return len(self._steps)

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
        values = (
            event.loss,
            event.learning_rate,
            event.grad_norm,
            event.tokens / event.seconds if event.seconds > 0 else NAN,
        )
        for name, value in zip(SERIES, values, strict=True):
            if isinstance(value, float | int) and math.isfinite(value):
                self._values[name].append(value)
            else:
                self._values[name].append(0.0)
                self._gaps[name].append(step)

    def _forget_from(self, step: int) -> None:
        keep = bisect_left(self._steps, step)
        del self._steps[keep:], self._at[keep:]
        for values in self._values.values():
            del values[keep:]
        for gaps in self._gaps.values():
            del gaps[bisect_left(gaps, step) :]
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
        shown = self._steps[begin:end]
        low, high = (shown[0], shown[-1]) if shown else (0, -1)
        return Chart(
            seq=self.seq,
            first=self._steps[0] if self._steps else None,
            last=self._steps[-1] if self._steps else None,
            not_numbers=len(_between(self._gaps["loss"], low, high)),
            steps=[self._steps[stop - 1] for _, stop in edges],
            at=[self._at[stop - 1] for _, stop in edges],
            series={name: [self._bucket(name, *edge) for edge in edges] for name in SERIES},
            evaluations=[
                each
                for each in self._evaluations
                if (first is None or each.global_step >= first) and (last is None or each.global_step <= last)
            ],
        )

    def _bucket(self, name: str, start: int, stop: int) -> Bucket:
        values = self._values[name][start:stop]
        for step in reversed(_between(self._gaps[name], self._steps[start], self._steps[stop - 1])):
            del values[bisect_left(self._steps, step, start, stop) - start]
        if not values:
            return Bucket(None, None, None)
        return Bucket(min(values), max(values), sum(values) / len(values))


def _between(steps: list[int], low: int, high: int) -> list[int]:
    return steps[bisect_left(steps, low) : bisect_right(steps, high)]


def _finite(value: Number | None) -> float | None:
    return value if isinstance(value, float | int) and math.isfinite(value) else None
