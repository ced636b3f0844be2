"""Shuffle rows without a random generator: a key decides the order, with every library and on every machine.

The numbers are those of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014), in
64-bit arithmetic. Each step of it is invertible. So no two rows get the same random key, and a key identifies its row:
the keys are sorted in place, without a second array.
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
"""Keys that are computed at a time; they stay in the cache of a core."""


def random_keys(start: int, first: int, count: int) -> Words:
    """Return the random keys of the numbers from `first` on; all are different."""
    found = np.arange(first + 1, first + 1 + count, dtype=np.uint64)
    for block in _blocks(found):
        block *= np.uint64(_INCREMENT)
        block += np.uint64(start)
        for shift, factor in zip(_SHIFTS[:2], _FACTORS, strict=True):
            block ^= block >> np.uint64(shift)
            block *= np.uint64(factor)
        block ^= block >> np.uint64(_SHIFTS[2])
    return found


def shuffle_rows(start: int, count: int) -> npt.NDArray[np.uint32]:
    """Return the numbers below `count`, sorted by their random keys."""
    if count > 1 << 32:
        raise ValueError(f"{count:,} rows are more than a plan can hold: 2³²")
    found = random_keys(start, 0, count)
    found.sort()
    order = np.empty(count, dtype=np.uint32)
    for at in range(0, count, BLOCK):
        order[at : at + BLOCK] = _numbers(found[at : at + BLOCK], start)
    return order


def _numbers(block: Words, start: int) -> Words:
    """Return the numbers that have these keys; overwrites `block`."""
    _invert_shift(block, _SHIFTS[2])
    for shift, factor in reversed(list(zip(_SHIFTS[:2], _FACTORS, strict=True))):
        block *= np.uint64(pow(factor, -1, 1 << 64))
        _invert_shift(block, shift)
    block -= np.uint64(start)
    block *= np.uint64(pow(_INCREMENT, -1, 1 << 64))
    block -= np.uint64(1)
    return block


def _invert_shift(block: Words, shift: int) -> None:
    """Undo x ^= x >> shift."""
    block ^= (block >> np.uint64(shift)) ^ (block >> np.uint64(2 * shift))


def _blocks(found: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    return [found[at : at + BLOCK] for at in range(0, len(found), BLOCK)]
