"""Quantiles and the histogram follow from exact counts, however many rows there are."""

from __future__ import annotations

import random

import pytest

from gpu.data.examine.lengths import BUCKETS, LengthCounts
from gpu.data.examine.report import LengthQuantiles


def counted(*lengths: int) -> LengthCounts:
    counts = LengthCounts()
    for length in lengths:
        counts.add(length)
    return counts


@pytest.mark.parametrize("rows", [1, 2, 3, 99, 100, 101, 1000])
def test_quantiles_are_those_of_the_sorted_rows(rows: int) -> None:
    generator = random.Random(rows)
    lengths = [generator.randrange(1, 300) for _ in range(rows)]
    ordered = sorted(lengths)
    p50, p90, p99 = (ordered[-(-rows * percent // 100) - 1] for percent in (50, 90, 99))
    expected = LengthQuantiles(min=ordered[0], p50=p50, p90=p90, p99=p99, max=ordered[-1])
    assert counted(*lengths).quantiles() == expected


def test_no_rows_have_no_quantiles() -> None:
    counts = counted()
    assert (counts.quantiles(), counts.histogram(), counts.longest, counts.tokens) == (None, (), 0, 0)


def test_every_row_is_in_one_bucket_and_outliers_do_not_set_the_scale() -> None:
    lengths = [*range(1, 111)] * 10
    even = counted(*lengths).histogram()
    assert sum(bucket.rows for bucket in even) == len(lengths)
    assert [bucket.up_to for bucket in even] == [10 * number for number in range(1, 12)]
    odd = counted(*lengths, 90_000).histogram()
    assert sum(bucket.rows for bucket in odd) == len(lengths) + 1
    assert odd[-1].up_to == 90_000
    assert (odd[-1].rows, odd[-2].up_to) == (1, 110)
    assert len(odd) <= BUCKETS


def test_memory_depends_on_the_lengths_and_not_on_the_rows() -> None:
    counts = counted(*([7] * 10_000), *([9] * 10_000))
    assert len(counts._rows) == 2
    assert counts.tokens == 160_000
