"""Memory that others take: the policy, and what follows from it. Commands in, events out; events in, state out.

What the worker has by itself is keepstep's own affair, and stands on the other side of the account. If it counted as
use, a worker that needs nine tenths of the machine would be ended for its own size, leave an empty machine behind, and
be begun again, for ever. So the question is what *others* use of that part which the worker leaves to them:

    others = total − available − worker          short of memory:  others > share × (total − worker)

With no worker that is "RAM above 85 %". It holds also after the worker has gone: what it had is remembered, so that
work goes on only where it fits in again. And others that use less than the part which the limit leaves free anyway
(15 %) are never waited for: that much of a system is always there, and waiting would wait for ever.

The same is asked of each control group with a limit that the worker is in (a systemd unit, a container): its limit is
the total there. Memory is short where it is short in one of these places; it is enough when it is enough in that one,
and what the worker had fits into all others without making them short.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from core import commands
from core.moves import illegal
from core.state import MemoryShortage, State
from events.event import Event
from events.kinds import AnyEvent
from events.memory import MemoryLow, MemoryRecovered
from events.settings import MemorySettings


def left_to_others(share: float, limits: MemorySettings, *, total_bytes: int, worker_bytes: int) -> float:
    """How many bytes others may use, by `share` of what the worker leaves.

    >>> limits = MemorySettings(hold_above=0.85, resume_below=0.75)
    >>> left_to_others(0.85, limits, total_bytes=100, worker_bytes=0)
    85.0
    >>> left_to_others(0.85, limits, total_bytes=100, worker_bytes=95)  # the floor: what is free at the limit
    15.0
    """
    floor = (1.0 - limits.hold_above) * share / limits.hold_above
    return max(share * (total_bytes - worker_bytes), round(floor * total_bytes, 6))


def used_by_others(*, total_bytes: int, available_bytes: int, worker_bytes: int) -> int:
    """Bytes. What a worker shares with others, or just gave back, may make it less than nothing."""
    return max(0, total_bytes - available_bytes - worker_bytes)


def is_short(measured: commands.MeasureMemory) -> bool:
    """Whether others use more than they may."""
    limits = measured.limits
    others = used_by_others(
        total_bytes=measured.total_bytes,
        available_bytes=measured.available_bytes,
        worker_bytes=measured.worker_bytes,
    )
    may = left_to_others(
        limits.hold_above, limits, total_bytes=measured.total_bytes, worker_bytes=measured.worker_bytes
    )
    return others > may


def is_enough(measured: commands.MeasureMemory, short: MemoryShortage, share: float | None = None) -> bool:
    """Whether what the worker had when memory was short would fit in again, with something to spare; or `share` of
    what it leaves to others, if that is given."""
    limits = measured.limits
    share = limits.resume_below if share is None else share
    others = used_by_others(
        total_bytes=measured.total_bytes,
        available_bytes=measured.available_bytes,
        worker_bytes=measured.worker_bytes,
    )
    wanted = max(short.worker_bytes, measured.worker_bytes)
    return others <= left_to_others(share, limits, total_bytes=measured.total_bytes, worker_bytes=wanted)


def ends_attempts(short: MemoryShortage | None, now: float) -> bool:
    """Whether it has been short for so long that what runs is to end. A clock that was set back counts as long."""
    return short is not None and not short.since <= now < short.since + short.grace_s


def _places(measured: commands.MeasureMemory) -> Sequence[commands.MeasureMemory]:
    """The machine, and each group, as if it were all there is."""
    groups = [
        replace(measured, total_bytes=total_bytes, available_bytes=available_bytes, groups=())
        for total_bytes, available_bytes in measured.groups
    ]
    return [measured, *groups]


def _enough_everywhere(measured: commands.MeasureMemory, short: MemoryShortage) -> bool:
    """A place that was not the reason need not become better than it is: it must only not become short."""
    places = _places(measured)
    reason = [place for place in places if place.total_bytes == short.total_bytes] or places
    return all(is_enough(place, short, None if place in reason else measured.limits.hold_above) for place in places)


def _measure(state: State, command: commands.MeasureMemory, now: float) -> Sequence[AnyEvent]:
    """Off, or better: go on. Short: hold, and say so once."""
    is_off = not command.limits.hold_above
    if state.short is not None:
        if is_off or _enough_everywhere(command, state.short):
            return [MemoryRecovered(available_bytes=min(place.available_bytes for place in _places(command)))]
        return []
    low = None if is_off else next((place for place in _places(command) if is_short(place)), None)
    if low is None:
        return []
    return [
        MemoryLow(
            total_bytes=low.total_bytes,
            available_bytes=low.available_bytes,
            worker_bytes=low.worker_bytes,
            grace_s=command.limits.grace_s,
            at=now,
        )
    ]


def _memory_low(state: State, event: MemoryLow) -> State:
    if state.short is not None:
        raise illegal(event, state.daemon.status, "that is known already")
    short = MemoryShortage(
        total_bytes=event.total_bytes,
        available_bytes=event.available_bytes,
        worker_bytes=event.worker_bytes,
        since=event.at,
        grace_s=event.grace_s,
    )
    return replace(state, short=short)


def _memory_recovered(state: State, event: MemoryRecovered) -> State:
    if state.short is None:
        raise illegal(event, state.daemon.status, "there was no want of memory")
    return replace(state, short=None)


MEASURING: Mapping[type, Callable[[State, Any, float], Sequence[AnyEvent]]] = {commands.MeasureMemory: _measure}

MEMORY: Mapping[type[Event], Callable[[State, Any], State]] = {
    MemoryLow: _memory_low,
    MemoryRecovered: _memory_recovered,
}
