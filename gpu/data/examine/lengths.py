"""Count rows by their length in tokens: quantiles and a histogram.

Rows are counted exactly, once for each length. So quantiles are exact, and the memory depends on how many different
lengths there are, not on how many rows.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from gpu.data.examine.report import Bucket, LengthQuantiles

BUCKETS = 12
"""Buckets of the histogram: one screen."""

OUTLIER_FACTOR = 2
"""If the longest row is longer than the 99 % quantile by more than this factor, it does not set the scale."""


class LengthCounts:
    """The number of rows of each length."""

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}

    def add(self, tokens: int) -> None:
        """Count a row of so many tokens."""
        self._rows[tokens] = self._rows.get(tokens, 0) + 1

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(length * rows for length, rows in self._rows.items())

    @property
    def longest(self) -> int:
        """Tokens of the longest row; 0 if there is none."""
        return max(self._rows, default=0)

    def quantiles(self) -> LengthQuantiles | None:
        """Return the quantiles; None if there is no row.

        Of rows sorted by length, the quantile p is the row with the number ⌈p · rows⌉ (nearest rank), so it is the
        length of a real row.
        """
        if not self._rows:
            return None
        lengths = sorted(self._rows)
        up_to = list(accumulate(self._rows[length] for length in lengths))

        def quantile(percent: int) -> int:
            return lengths[bisect_left(up_to, -(-up_to[-1] * percent // 100))]

        return LengthQuantiles(min=lengths[0], p50=quantile(50), p90=quantile(90), p99=quantile(99), max=lengths[-1])

    def histogram(self) -> tuple[Bucket, ...]:
        """Return buckets of equal width. With outliers, the last bucket is wider and has all longer rows."""
        quantiles = self.quantiles()
        if quantiles is None:
            return ()
        has_outliers = quantiles.max > OUTLIER_FACTOR * quantiles.p99
        scaled, count = (quantiles.p99, BUCKETS - 1) if has_outliers else (quantiles.max, BUCKETS)
        width = -(-scaled // count) or 1
        last = max(0, scaled - 1) // width
        rows = [0] * (last + 1 + has_outliers)
        for length, number in self._rows.items():
            rows[min(max(0, length - 1) // width, len(rows) - 1)] += number
        ends = [(place + 1) * width for place in range(last + 1)] + [quantiles.max] * has_outliers
        return tuple(map(Bucket, ends, rows))
