"""A micro-batch that does not fit into memory whole, cut into pieces. The rule stands in `events/course.py`."""

from __future__ import annotations

from collections.abc import Sequence

from gpu.data.plan.batches import MicroBatch


def cut(micro_batch: MicroBatch, parts: int) -> list[MicroBatch]:
    """Its pieces, in order: ⌈n / parts⌉ sequences each, the last perhaps fewer.

    >>> cut(((1,), (2,), (3,)), 2)
    [((1,), (2,)), ((3,),)]
    """
    size = -(-len(micro_batch) // parts)
    return [micro_batch[at : at + size] for at in range(0, len(micro_batch), size)]


def most_together(micro_batches: Sequence[MicroBatch], parts: int) -> int:
    """How many sequences the largest of all pieces has."""
    return max(-(-len(micro_batch) // parts) for micro_batch in micro_batches)
