"""What every handler of `evolve` needs: to refuse an event, and to move the daemon on by its table."""

from __future__ import annotations

from msgspec.structs import replace

from core.errors import IllegalEvent
from core.state import State
from core.transitions import DAEMON
from events.codec import kind_of
from events.event import Event


def illegal(event: Event, status: str, reason: str = "") -> IllegalEvent:
    """That `event` cannot follow; to be raised."""
    return IllegalEvent(kind_of(event), status, reason)


def daemon_moved(state: State, event: Event, kind: str | None = None) -> State:
    """`state` with the daemon moved on by its table. Raises IllegalEvent."""
    status = DAEMON[state.daemon.status].get(kind or kind_of(event))
    if status is None:
        raise illegal(event, state.daemon.status)
    return replace(state, daemon=replace(state.daemon, status=status))
