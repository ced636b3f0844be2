"""Pack short examples into sequences of at most a given length: fewer sequences, hardly any padding.

A pure function of the lengths. First-fit-decreasing decides the number of sequences (the longest row first, each into
the first sequence with room: Johnson 1973; at most 11/9 of the optimum plus one). The rows are then spread evenly over
that many sequences, so that sequences that are computed together have about the same length.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

Sequences = list[list[int]]
"""Each sequence holds the indices of its rows."""


def pack(lengths: Sequence[int], max_length: int) -> Sequences:
    """Return sequences of at most `max_length` tokens, the longest first; each row is in exactly one.

    A longer row has its own sequence.
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
        index = next((index for index, left in enumerate(room) if left >= lengths[row]), None)
        if index is None:
            found.append([row])
            room.append(max_length - lengths[row])
        else:
            found[index].append(row)
            room[index] -= lengths[row]
    return found


def _spread(lengths: Sequence[int], longest_first: Sequence[int], count: int) -> Sequences:
    """Put each row into the sequence that is the shortest so far."""
    found: Sequences = [[] for _ in range(count)]
    sizes = [(0, index) for index in range(count)]
    heapify(sizes)
    for row in longest_first:
        size, index = heappop(sizes)
        found[index].append(row)
        heappush(sizes, (size + lengths[row], index))
    return found


def _sizes(sequences: Sequences, lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[row] for row in sequence) for sequence in sequences]
