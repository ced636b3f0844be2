"""Short examples put end to end into sequences of a length at most: fewer sequences, hardly any padding.

A pure function of the lengths. As many sequences as first-fit-decreasing needs (the longest first, each into the first
sequence that still has room: Johnson 1973; never more than 11/9 of the fewest possible, and one), and then the rows are
spread evenly over so many, so that sequences that are computed together are of about the same length.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

Sequences = list[list[int]]
"""Each with the indices of the rows in it."""


def packed(lengths: Sequence[int], max_length: int) -> Sequences:
    """Every row in exactly one sequence of at most `max_length` tokens, the longest sequence first.

    A row that is longer than that has a sequence to itself.
    """
    longest_first = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    fitted = _first_fit(lengths, longest_first, max_length)
    spread = _spread(lengths, longest_first, len(fitted))
    found = spread if max(_sizes(spread, lengths), default=0) <= max(_sizes(fitted, lengths), default=0) else fitted
    return sorted(found, key=lambda sequence: (-sum(lengths[row] for row in sequence), sequence))


def _first_fit(lengths: Sequence[int], longest_first: Sequence[int], max_length: int) -> Sequences:
    found: Sequences = []
    room: list[int] = []
    for row in longest_first:
        place = next((place for place, left in enumerate(room) if left >= lengths[row]), None)
        if place is None:
            found.append([row])
            room.append(max_length - lengths[row])
        else:
            found[place].append(row)
            room[place] -= lengths[row]
    return found


def _spread(lengths: Sequence[int], longest_first: Sequence[int], count: int) -> Sequences:
    """Each row into the sequence that is the shortest by then."""
    found: Sequences = [[] for _ in range(count)]
    sizes = [(0, place) for place in range(count)]
    heapify(sizes)
    for row in longest_first:
        size, place = heappop(sizes)
        found[place].append(row)
        heappush(sizes, (size + lengths[row], place))
    return found


def _sizes(sequences: Sequences, lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[row] for row in sequence) for sequence in sequences]
