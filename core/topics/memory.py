"""A shortage of memory: when other processes use so much that nothing starts, and the running attempt ends.

Memory that the worker has by itself does not count as use. If it did, a worker that needs nine tenths of the machine
would be ended for its own size, leave an empty machine, and start again, for ever. So the rule looks at what *others*
use of the part that the worker leaves to them:

    others = total − available − worker          shortage:  others > share × (total − worker)

Without a worker that is "RAM above 85 %". The rule also holds after the worker has ended: its size is remembered, so
that work resumes only where it fits in again. Others that use less than 15 % of the memory (or than the limit, if that
is lower) never count: a system always uses that much, and waiting for less would never end.

The same rule applies to each control group with a limit that the worker is in (a systemd unit, a container): its limit
is the total there. Memory is short if it is short in one of these places. It is enough again if it is enough in that
place, and the remembered worker fits into all others without a new shortage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from core import commands
from core.checks import illegal
from core.structures.situations import MemoryShortage
from core.tables import DecideTable, Events, EvolveTable
from events import kinds
from events.settings import MemorySettings

if TYPE_CHECKING:
    from core.state import State


ALWAYS_USED = 0.15
"""Share of the memory that others may use in any case: an idle system with its services uses that much."""


class Memory(Struct, frozen=True):
    """The memory of the machine. Pausing and stopping do not depend on it."""

    shortage: MemoryShortage | None = None
    """Nothing starts while it lasts, and the running attempt ends after the grace period."""


# -- policy ---------------------------------------------------------------------------------------------------------


def left_to_others(share: float, limits: MemorySettings, *, total_bytes: int, worker_bytes: int) -> float:
    """Bytes that others may use: `share` of what the worker leaves.

    >>> limits = MemorySettings(hold_above=0.85, resume_below=0.75)
    >>> left_to_others(0.85, limits, total_bytes=100, worker_bytes=0)
    85.0
    >>> left_to_others(0.85, limits, total_bytes=100, worker_bytes=95)  # the floor: what a system always uses
    15.0
    """
    floor = min(limits.hold_above, ALWAYS_USED) * share / limits.hold_above
    return max(share * (total_bytes - worker_bytes), round(floor * total_bytes, 6))


def used_by_others(*, total_bytes: int, available_bytes: int, worker_bytes: int) -> int:
    """Bytes. The difference may be negative where the worker shares memory with others or has just freed some."""
    return max(0, total_bytes - available_bytes - worker_bytes)


def _others(measured: commands.MeasureMemory) -> int:
    return used_by_others(
        total_bytes=measured.total_bytes,
        available_bytes=measured.available_bytes,
        worker_bytes=measured.worker_bytes,
    )


def is_short(measured: commands.MeasureMemory) -> bool:
    """True if others use more than they may."""
    limits, total = measured.limits, measured.total_bytes
    return _others(measured) > left_to_others(
        limits.hold_above, limits, total_bytes=total, worker_bytes=measured.worker_bytes
    )


def is_enough(measured: commands.MeasureMemory, shortage: MemoryShortage, share: float | None = None) -> bool:
    """True if the remembered worker fits in again and others use less than `share` of the rest (None:
    `resume_below`)."""
    limits = measured.limits
    share = limits.resume_below if share is None else share
    wanted = max(shortage.worker_bytes, measured.worker_bytes)
    return _others(measured) <= left_to_others(share, limits, total_bytes=measured.total_bytes, worker_bytes=wanted)


def ends_attempts(shortage: MemoryShortage | None, now: float) -> bool:
    """True if the grace period of a shortage is over; a clock that was set back counts as over."""
    return shortage is not None and not shortage.since <= now < shortage.since + shortage.grace_s


def _places(measured: commands.MeasureMemory) -> Sequence[commands.MeasureMemory]:
    """The machine, and each control group, as if each were a machine."""
    groups = [
        replace(measured, total_bytes=total_bytes, available_bytes=available_bytes, groups=())
        for total_bytes, available_bytes in measured.groups
    ]
    return [measured, *groups]


def _is_enough_everywhere(measured: commands.MeasureMemory, shortage: MemoryShortage) -> bool:
    """A place that did not cause the shortage need not become better than it is: it must only not become short."""
    places = _places(measured)
    causes = [place for place in places if place.total_bytes == shortage.total_bytes] or places
    return all(is_enough(place, shortage, None if place in causes else measured.limits.hold_above) for place in places)


# -- commands -------------------------------------------------------------------------------------------------------


def _measure(state: State, command: commands.MeasureMemory, now: float) -> Events:
    """Journal where a shortage begins and where it ends."""
    is_off = not command.limits.hold_above
    if state.memory.shortage is not None:
        if is_off or _is_enough_everywhere(command, state.memory.shortage):
            return [kinds.MemoryRecovered(available_bytes=min(place.available_bytes for place in _places(command)))]
        return []
    low = None if is_off else next((place for place in _places(command) if is_short(place)), None)
    if low is None:
        return []
    return [
        kinds.MemoryLow(
            total_bytes=low.total_bytes,
            available_bytes=low.available_bytes,
            worker_bytes=low.worker_bytes,
            grace_s=command.limits.grace_s,
            at=now,
        )
    ]


DECIDE: DecideTable = {commands.MeasureMemory: _measure}


# -- events ---------------------------------------------------------------------------------------------------------


def _memory_low(state: State, event: kinds.MemoryLow) -> State:
    if state.memory.shortage is not None:
        raise illegal(event, state.daemon.status, "that is known already")
    shortage = MemoryShortage(
        total_bytes=event.total_bytes,
        available_bytes=event.available_bytes,
        worker_bytes=event.worker_bytes,
        since=event.at,
        grace_s=event.grace_s,
    )
    return replace(state, memory=Memory(shortage))


def _memory_recovered(state: State, event: kinds.MemoryRecovered) -> State:
    if state.memory.shortage is None:
        raise illegal(event, state.daemon.status, "memory was not short")
    return replace(state, memory=Memory())


EVOLVE: EvolveTable = {
    kinds.MemoryLow: _memory_low,
    kinds.MemoryRecovered: _memory_recovered,
}
