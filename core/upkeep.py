"""What keepstep journals of its own upkeep: events in, state out. A part of `evolve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from core.state import State
from events import kinds
from events.event import Event
from events.upkeep import OrphanEnded, WatchCostMeasured


def _journal_repaired(state: State, _event: kinds.JournalRepaired) -> State:
    return replace(state, repaired=True)


def _unchanged(state: State, _event: Event) -> State:
    return state


UPKEEP: Mapping[type[Event], Callable[[State, Any], State]] = {
    kinds.PartialSwept: _unchanged,
    kinds.JournalRepaired: _journal_repaired,
    OrphanEnded: _unchanged,
    WatchCostMeasured: _unchanged,
}
