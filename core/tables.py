"""The tables that the topics hold, and how they become one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from events.event import Event
from events.kinds import AnyEvent

if TYPE_CHECKING:
    from core.state import State

Events = Sequence[AnyEvent]

Decide = Callable[["State", Any, float], Events]
Evolve = Callable[["State", Any], "State"]

DecideTable = Mapping[type, Decide]
"""Type of the command or worker report → its handler: (state, command, Unix time in seconds) → events."""

EvolveTable = Mapping[type[Event], Evolve]
"""Type of the event → its handler: (state, event) → state."""


class Topic(Protocol):
    """What every module in `core/topics/` has."""

    DECIDE: DecideTable
    EVOLVE: EvolveTable


Handler = TypeVar("Handler")


def composed(tables: Iterable[Mapping[type, Handler]], types: Iterable[type]) -> Mapping[type, Handler]:
    """One table of all. Raises TypeError unless exactly these types have a handler, and each has one."""
    whole: dict[type, Handler] = {}
    for table in tables:
        if twice := whole.keys() & table.keys():
            raise TypeError(f"two topics handle {_names(twice)}")
        whole.update(table)
    if differing := whole.keys() ^ set(types):
        raise TypeError(f"no topic handles, or no union names, {_names(differing)}")
    return whole


def _names(types: Iterable[type]) -> str:
    return ", ".join(sorted(each.__name__ for each in types))
