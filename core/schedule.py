"""When the schedule asks for a consolidation: once for each date, whatever the clocks do."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, tzinfo

from core.state import State
from events.settings import ConsolidationSettings


def night_due(settings: ConsolidationSettings, zone: tzinfo, state: State, now: float) -> str | None:
    """The date (YYYY-MM-DD) that a consolidation is due for; None if none is, or there is nothing to consolidate.

    A date is asked for once, from its moment on. A time that a change of the clocks leaves out comes as much later as
    they were set forward; of one that comes twice, the first counts (PEP 495, fold = 0). `missed = "skip"`: not if its
    moment was before the daemon's start. `now`: Unix time, seconds.
    """
    if not settings.schedule or state.consolidation_request is not None or state.head is None:
        return None
    at = time.fromisoformat(settings.schedule)
    day = datetime.fromtimestamp(now, zone).date()
    if _moment(day, at, zone) > now:
        day -= timedelta(days=1)
    since = state.first_started_at if settings.missed == "run" else state.daemon.process_started_at
    due = _moment(day, at, zone) >= since and day.isoformat() > state.night
    return day.isoformat() if due else None


def _moment(day: date, at: time, zone: tzinfo) -> float:
    return datetime.combine(day, at, tzinfo=zone).timestamp()
