"""What the daemon looks at from time to time: whether a night is due, how much room the disk has, what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cli.config import Config, zone_of
from cli.ledger import Ledger
from cli.room import Room
from core.commands import MeasureRoom, RequestConsolidation
from core.schedule import night_due
from events.kinds import AnyEvent
from events.settings import ConsolidationSettings


def ask_for_the_night(ledger: Ledger, settings: ConsolidationSettings) -> Sequence[AnyEvent]:
    """Journal that a consolidation is wanted, if the schedule says so now; what was journaled. Raises UserError."""
    if not settings.schedule:
        return ()
    night = night_due(settings, zone_of(settings), ledger.state, ledger.home.clock.now())
    if night is None:
        return ()
    return ledger.execute(
        RequestConsolidation(description=f"what was learned up to {night}", after_current=True, night=night)
    )


def by_the_clock(ledger: Ledger, config: Config, room: Room) -> Iterator[AnyEvent]:
    """What schedule and limits of the config ask for now, and what the daemon costs; what was journaled.

    Raises UserError, OSError.
    """
    if ledger.state.daemon.status in {"idle", "working"}:
        yield from ask_for_the_night(ledger, config.consolidation)
    limits = config.disk
    if (limits.soft_gb or limits.hard_gb) and (free_bytes := room.measured()) is not None:
        yield from ledger.execute(MeasureRoom(free_bytes=free_bytes, disk=limits, retention=config.retention))
    ledger.meter.lap("schedule and room")
    ledger.meter.turned(training=ledger.state.attempt is not None)
    if (cost := ledger.meter.due()) is not None:
        yield from ledger.execute(cost)
