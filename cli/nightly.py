"""The schedule of the config, held against the clock: asks for a consolidation when a night is due."""

from __future__ import annotations

from collections.abc import Sequence

from cli.config import zone_of
from cli.ledger import Ledger
from core.commands import RequestConsolidation
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
