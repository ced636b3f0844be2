"""A journal with times and positions, folded as the event store folds it."""

from __future__ import annotations

from events.codec import Record
from projections.fold import fold
from projections.progress import Folded
from tests.core.world import World


def records(world: World) -> list[Record]:
    """The world's journal; the n-th record is written at `t<n>`."""
    return [
        Record(seq=seq, at=f"t{seq}", durable=seq - 1, prev="", event=event, crc=f"{seq:08x}")
        for seq, event in enumerate(world.journal, 1)
    ]


def folded(world: World) -> Folded:
    """All of it."""
    result = Folded()
    for record in records(world):
        result = fold(result, record)
    return result
