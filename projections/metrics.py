"""Metrics by step: loss, learning rate, gradient norm, speed, and evaluations, for charts.

The fold keeps one number for each step and metric in a compact array. A chart asks for a range of steps and for a
number of points; each point is then the smallest, the largest and the mean value of some consecutive steps.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from msgspec import Struct

from core.topics.evaluation.validation import gap_of
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
    seq: int
    """The record that it comes from."""
    at: float
    """Unix time, seconds."""


Group = Literal["train", "validation"]

GROUPS: Final[dict[Group, tuple[str, ...]]] = {"train": SERIES, "validation": ("loss", "gap")}
"""The groups of points for other tools, and the values of each."""


class Point(NamedTuple):
    """The values of one step or evaluation that are finite numbers, by name."""

    seq: int
    """The record that they come from."""
    global_step: int
    at: float
    """Unix time, seconds."""
    values: dict[str, float]


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

    A value that is not a finite number is NaN: it is part of no bucket. Blocks are summed up when they are first read.
    """

    def __init__(self) -> None:
        self.values = array("d")
        self._blocks: list[tuple[float, float, float, int]] = []

    def cut(self, length: int) -> None:
        """Forget all but the first `length` values."""
        del self.values[length:]
        del self._blocks[length // BLOCK :]

    def summary(self, start: int, stop: int) -> tuple[float, float, float, int]:
        """Lowest, highest, sum and number of the finite values from `start` to before `stop`."""
        first, last = -(-start // BLOCK), stop // BLOCK
        for block in range(len(self._blocks), last):
            self._blocks.append(_summary(self.values[block * BLOCK : (block + 1) * BLOCK]))
        if first >= last:
            return _summary(self.values[start:stop])
        parts = [
            _summary(self.values[start : first * BLOCK]),
            *self._blocks[first:last],
            _summary(self.values[last * BLOCK : stop]),
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
        self.home_id = ""
        self.committed_step = 0
        """Steps up to this one are in a checkpoint: they run again only after a rollback, or if it is damaged."""
        self._steps = array("q")
        self._seqs = array("q")
        self._at = array("d")
        self._columns = {name: Column() for name in SERIES}
        self._evaluations: list[EvaluationPoint] = []

    def observe(self, *records: Record) -> None:
        """Fold records. Many at once cost a fraction: their numbers are added to the columns together."""
        steps: list[tuple[Record, kinds.StepReached]] = []
        last = self._steps[-1] if self._steps else None
        for record in records:
            event = record.event
            if isinstance(event, kinds.StepReached):
                step = event.global_step
                if last is not None and step <= last:
                    self._add_steps(steps)
                    steps = []
                    self._forget_from(step)
                steps.append((record, event))
                last = step
            elif isinstance(event, kinds.EvaluationDone):
                self._add_evaluation(record, event)
            elif isinstance(event, kinds.CheckpointCommitted):
                self.committed_step = event.global_step
            elif isinstance(event, kinds.HomeCreated):
                self.home_id = event.home_id
        self._add_steps(steps)
        if records:
            self.seq = records[-1].seq

    def _add_evaluation(self, record: Record, event: kinds.EvaluationDone) -> None:
        loss, training_loss = _finite(event.loss), _finite(event.training_loss)
        point = EvaluationPoint(event.global_step, loss, training_loss, record.seq, _unix(record.at))
        keep = bisect_left(self._evaluations, point.global_step, key=lambda each: each.global_step)
        del self._evaluations[keep:]
        self._evaluations.append(point)

    def _add_steps(self, reached: list[tuple[Record, kinds.StepReached]]) -> None:
        """Add steps that follow one another and the last one."""
        self._steps.extend([event.global_step for _, event in reached])
        self._seqs.extend([record.seq for record, _ in reached])
        self._at.extend([_unix(record.at) for record, _ in reached])
        loss, rate, norm, speed = self._columns.values()
        loss.values.extend(_numbers([event.loss for _, event in reached]))
        rate.values.extend(_numbers([event.learning_rate for _, event in reached]))
        norm.values.extend(_numbers([event.grad_norm for _, event in reached]))
        speed.values.extend([event.tokens / event.seconds if event.seconds > 0 else NAN for _, event in reached])

    def _forget_from(self, step: int) -> None:
        self.committed_step = min(self.committed_step, step - 1)
        keep = bisect_left(self._steps, step)
        del self._steps[keep:], self._seqs[keep:], self._at[keep:]
        for column in self._columns.values():
            column.cut(keep)
        self._evaluations = [each for each in self._evaluations if each.global_step < step]

    def points(self, group: Group, after: int = 0) -> Iterator[Point]:
        """The points whose record is after `after`, in the order of steps, which is also that of records.

        The first of them replaces everything that was known from its step on.
        """
        if group == "validation":
            for each in self._evaluations[bisect_right(self._evaluations, after, key=lambda point: point.seq) :]:
                gap = gap_of(each.loss, each.training_loss) if each.loss is not None else None
                named = {"loss": each.loss, "gap": gap}
                values = {name: value for name, value in named.items() if value is not None}
                yield Point(each.seq, each.global_step, each.at, values)
            return
        for place in range(bisect_right(self._seqs, after), len(self._seqs)):
            numbers = ((name, column.values[place]) for name, column in self._columns.items())
            values = {name: value for name, value in numbers if not math.isnan(value)}
            yield Point(self._seqs[place], self._steps[place], self._at[place], values)

    def newest(self, group: Group, until: int) -> tuple[int, int] | None:
        """Record and global step of the newest point whose record is `until` or before it; None: there is none."""
        if group == "validation":
            place = bisect_right(self._evaluations, until, key=lambda point: point.seq)
            found = self._evaluations[place - 1] if place else None
            return (found.seq, found.global_step) if found is not None else None
        place = bisect_right(self._seqs, until)
        return (self._seqs[place - 1], self._steps[place - 1]) if place else None

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


def _numbers(values: list[Any]) -> array[float]:  # Any: a word that stands for a number raises TypeError
    """The values; NaN in the place of each that is not a finite number."""
    try:
        found = array("d", values)
        if math.isfinite(sum(found)):
            return found
    except TypeError:
        pass
    return array("d", [NAN if (value := _finite(each)) is None else value for each in values])


def _unix(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
