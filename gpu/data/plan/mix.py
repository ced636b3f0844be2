"""Chance without a generator: rows in an order that a key decides, the same with every library and on every machine.

The numbers are those of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014), written
out in 64-bit arithmetic. Each step of it can be undone, so that no two rows ever get the same place, and a place says
whose it is: places are sorted where they stand, and no second array is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

_INCREMENT = 0x9E3779B97F4A7C15
"""2⁶⁴ divided by the golden ratio; odd, so that no two counts below 2⁶⁴ meet."""

_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)

BLOCK = 1 << 18
"""Places worked on at a time: what lies in between stays in the cache of a core."""


def places(start: int, first: int, count: int) -> Words:
    """The places of what is numbered `first`, `first + 1`, …: all different, and as if by chance."""
    found = np.arange(first + 1, first + 1 + count, dtype=np.uint64)
    for block in _blocks(found):
        block *= np.uint64(_INCREMENT)
        block += np.uint64(start)
        for shift, factor in zip(_SHIFTS[:2], _FACTORS, strict=True):
            block ^= block >> np.uint64(shift)
            block *= np.uint64(factor)
        block ^= block >> np.uint64(_SHIFTS[2])
    return found


def shuffled(start: int, count: int) -> npt.NDArray[np.uint32]:
    """The numbers below `count`, in the order of their places."""
    if count > 1 << 32:
        raise ValueError(f"{count} rows are more than can be planned: 2³²")
    found = places(start, 0, count)
    found.sort()
    order = np.empty(count, dtype=np.uint32)
    for at in range(0, count, BLOCK):
        order[at : at + BLOCK] = _numbers(found[at : at + BLOCK], start)
    return order


def _numbers(block: Words, start: int) -> Words:
    """Whose places these are; `block` is spoiled."""
    _undo_shift(block, _SHIFTS[2])
    for shift, factor in reversed(list(zip(_SHIFTS[:2], _FACTORS, strict=True))):
        block *= np.uint64(pow(factor, -1, 1 << 64))
        _undo_shift(block, shift)
    block -= np.uint64(start)
    block *= np.uint64(pow(_INCREMENT, -1, 1 << 64))
    block -= np.uint64(1)
    return block


def _undo_shift(block: Words, shift: int) -> None:
    """What was x ^ (x >> shift) is x again."""
    block ^= (block >> np.uint64(shift)) ^ (block >> np.uint64(2 * shift))


def _blocks(found: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    return [found[at : at + BLOCK] for at in range(0, len(found), BLOCK)]
