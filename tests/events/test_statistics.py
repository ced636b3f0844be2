"""The statistics of evaluations; the docstrings have examples that were worked out by hand."""

from __future__ import annotations

import doctest

import pytest

from events import statistics
from events.statistics import Change, backward_transfer, forgetting, paired_bootstrap


def test_the_examples_are_right() -> None:
    result = doctest.testmod(statistics)
    assert result.attempted >= 10
    assert result.failed == 0


def test_an_interval_depends_on_its_seed_alone() -> None:
    changes = [Change(1.0, 1.0 + 0.1 * row, weight=1 + row % 3) for row in range(20)]
    first = paired_bootstrap(changes, "a")
    assert first == paired_bootstrap(list(changes), "a")
    assert first != paired_bootstrap(changes, "b")
    assert first.estimate == paired_bootstrap(changes, "b").estimate


def test_an_interval_of_many_rows_is_that_of_the_normal_distribution() -> None:
    """400 differences, half 0 and half 1: the mean is 0.5, and its standard error 0.5 / √400 = 0.025. The interval
    is 0.5 ± 1.96 · 0.025."""
    interval = paired_bootstrap([Change(0.0, float(row % 2)) for row in range(400)], "seed")
    assert interval.estimate == 0.5
    assert interval.low == pytest.approx(0.451, abs=0.005)
    assert interval.high == pytest.approx(0.549, abs=0.005)


def test_tokens_weigh_a_row() -> None:
    """A row of nine tokens that loses 9 nats and one of one token that gains 1: (9 - 1) / 10."""
    assert paired_bootstrap([Change(0, 9, 9), Change(1, 0, 1)], "seed").estimate == pytest.approx(0.8)


def test_files_without_both_scores_are_left_out() -> None:
    """Only some files are evaluated each time, when there are many."""
    matrix = [("a", {"a": 1.0}), ("b", {"b": 1.0}), ("c", {"b": 1.5, "c": 1.0})]
    assert backward_transfer(matrix) == pytest.approx(-0.5)
    assert forgetting(matrix) == {"b": 0.5}
    assert backward_transfer([]) is None
    assert forgetting([("a", {"a": 1.0})]) == {}
