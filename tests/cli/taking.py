"""One file of the inbox, taken as the daemon takes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cli.home.event_store import EventStore
from cli.inbox.accept import accept_files
from cli.inbox.ownership import FileRefused
from events.kinds import AnyEvent
from events.values import Priority


def take_from_inbox(store: EventStore, path: Path, priority: Priority) -> Sequence[AnyEvent]:
    """Make a job of it; its events. Raises FileRefused with the reason if it is not taken, and as `accept_files`."""
    reasons: list[str] = []
    events = list(accept_files(store, [(path, priority)], lambda _, reason: reasons.append(reason)))
    for reason in reasons:
        raise FileRefused(reason)
    return events
