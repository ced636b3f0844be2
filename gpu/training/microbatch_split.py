"""Split a micro-batch that does not fit into memory. `events/course.py` defines the parts."""

from __future__ import annotations

from collections.abc import Sequence

from gpu.data.plan.batches import MicroBatch


def split_microbatch(micro_batch: MicroBatch, parts: int) -> list[MicroBatch]:
    """Return the pieces of a micro-batch in order: ⌈n / parts⌉ sequences each, the last perhaps fewer.

    >>> cut(((1,), (2,), (3,)), 2)
    [((1,), (2,)), ((3,),)]
    """
    size = -(-len(micro_batch) // parts)
    return [micro_batch[at : at + size] for at in range(0, len(micro_batch), size)]


def largest_part(micro_batches: Sequence[MicroBatch], parts: int) -> int:
    """Return the number of sequences in the largest piece of all micro-batches."""
    return max(-(-len(micro_batch) // parts) for micro_batch in micro_batches)
