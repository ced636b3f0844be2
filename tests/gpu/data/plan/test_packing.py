"""Packing puts each row into one sequence, none too long, with hardly any padding."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpu.data.plan.packing import pack


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(100, 300))
def test_every_row_is_in_one_sequence_and_none_is_too_long(lengths: list[int], max_length: int) -> None:
    """No two sequences would fit into one."""
    sequences = pack(lengths, max_length)
    assert sorted(row for sequence in sequences for row in sequence) == list(range(len(lengths)))
    sizes = [sum(lengths[row] for row in sequence) for sequence in sequences]
    assert all(size <= max_length for size in sizes)
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) < 2 or sizes[-1] + sizes[-2] > max_length
    assert pack(lengths, max_length) == sequences


def test_sequences_are_about_equally_long() -> None:
    """First-fit alone would fill the first, and leave the last almost empty."""
    assert pack([6, 5, 4, 3, 2, 2], 20) == [[0, 3, 4], [1, 2, 5]]


def test_where_an_even_spread_does_not_fit_the_first_fit_stays() -> None:
    """The largest rows leave room for exactly these."""
    assert pack([6, 4, 4, 3, 3], 10) == [[0, 1], [2, 3, 4]]


def test_a_row_that_is_longer_than_a_sequence_stands_alone() -> None:
    assert pack([30, 5, 6], 10) == [[0], [2], [1]]
