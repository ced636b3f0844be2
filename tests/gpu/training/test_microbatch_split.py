"""A micro-batch cut into pieces: every sequence once, in order, none larger than asked for."""

from __future__ import annotations

import pytest

from gpu.training.microbatch_split import largest_part, split_microbatch


@pytest.mark.parametrize(
    ("sequences", "parts", "sizes"),
    [(4, 1, [4]), (4, 2, [2, 2]), (4, 4, [1] * 4), (3, 2, [2, 1]), (5, 4, [2, 2, 1]), (1, 2, [1]), (2, 8, [1, 1])],
)
def test_pieces_are_as_even_as_the_rule_says(sequences: int, parts: int, sizes: list[int]) -> None:
    """⌈n / parts⌉ each, and the last what is left."""
    micro_batch = tuple((row, row + 100) for row in range(sequences))
    pieces = split_microbatch(micro_batch, parts)
    assert [len(piece) for piece in pieces] == sizes
    assert tuple(sequence for piece in pieces for sequence in piece) == micro_batch
    assert largest_part([micro_batch], parts) == max(sizes)


def test_the_largest_of_several_counts() -> None:
    """The last micro-batch of an epoch may be smaller."""
    assert largest_part([((1,),), ((2,), (3,), (4,))], 2) == 2
