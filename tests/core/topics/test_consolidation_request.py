"""The schedule asks once for each date, on every date, whatever clocks and daemons do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from core import commands
from core.state import State
from core.topics.consolidation_request import date_due
from events.settings import ConsolidationSettings
from tests.core.world import World

BERLIN = ZoneInfo("Europe/Berlin")
"""Clocks go forward on 2026-03-29 at 02:00, back on 2026-10-25 at 03:00."""


def trained(first_started_at: float = 0.0) -> State:
    """A state with something to consolidate."""
    world = World()
    world.start()
    world.add(2)
    world.run()
    return replace(world.state, daemon=replace(world.state.daemon, first_started_at=first_started_at))


def nights(settings: ConsolidationSettings, first: datetime, days: int) -> list[str]:
    """Every date that is asked for, each asked at once, with a look every ten minutes."""
    state, found = trained(first.timestamp()), []
    at = first
    while at < first + timedelta(days=days):
        night = date_due(settings, BERLIN, state, at.timestamp())
        if night is not None:
            found.append(f"{night} {at.astimezone(BERLIN):%H:%M}")
            state = replace(state, consolidation=replace(state.consolidation, last_scheduled=night))
        at += timedelta(minutes=10)
    return found


@pytest.mark.parametrize("schedule", ["00:00", "02:00", "02:30", "03:00", "23:50"])
@pytest.mark.parametrize("first", [datetime(2026, 3, 27, 12, tzinfo=UTC), datetime(2026, 10, 23, 12, tzinfo=UTC)])
def test_a_change_of_the_clocks_neither_doubles_nor_skips_a_night(schedule: str, first: datetime) -> None:
    found = nights(ConsolidationSettings(schedule=schedule, timezone="Europe/Berlin"), first, 5)
    dates = [line.split()[0] for line in found]
    assert len(dates) == 5
    assert dates == sorted(set(dates))


def test_a_time_that_the_clocks_leave_out_comes_later_and_one_that_comes_twice_comes_first() -> None:
    half_past_two = ConsolidationSettings(schedule="02:30", timezone="Europe/Berlin")
    assert "2026-03-29 03:30" in nights(half_past_two, datetime(2026, 3, 28, 12, tzinfo=UTC), 1)
    first = nights(half_past_two, datetime(2026, 10, 24, 12, tzinfo=UTC), 1)
    assert first == ["2026-10-25 02:30"]


def test_a_missed_night_is_made_up_for_once_or_not_at_all() -> None:
    state = trained(first_started_at=0.0)
    now = datetime(2026, 11, 24, 9, tzinfo=UTC).timestamp()
    state = replace(state, daemon=replace(state.daemon, process_started_at=now - 60))
    assert date_due(ConsolidationSettings(schedule="03:00"), UTC, state, now) == "2026-11-24"
    assert date_due(ConsolidationSettings(schedule="03:00", missed="skip"), UTC, state, now) is None
    assert date_due(ConsolidationSettings(schedule="09:00", missed="skip"), UTC, state, now) == "2026-11-24"
    done = replace(state, consolidation=replace(state.consolidation, last_scheduled="2026-11-24"))
    assert date_due(ConsolidationSettings(schedule="03:00"), UTC, done, now) is None


def test_a_home_that_is_new_has_missed_nothing() -> None:
    now = datetime(2026, 11, 24, 9, tzinfo=UTC).timestamp()
    assert date_due(ConsolidationSettings(schedule="03:00"), UTC, trained(now - 60), now) is None


def test_a_clock_that_is_set_back_asks_for_no_night_again() -> None:
    state = trained()
    state = replace(state, consolidation=replace(state.consolidation, last_scheduled="2026-11-24"))
    yesterday = datetime(2026, 11, 23, 9, tzinfo=UTC).timestamp()
    assert date_due(ConsolidationSettings(schedule="03:00"), UTC, state, yesterday) is None


def test_nothing_is_asked_for_without_need() -> None:
    """No schedule; nothing trained; one is wanted already."""
    now = datetime(2026, 11, 24, 9, tzinfo=UTC).timestamp()
    at_three = ConsolidationSettings(schedule="03:00")
    assert date_due(ConsolidationSettings(), UTC, trained(), now) is None
    assert date_due(at_three, UTC, State(), now) is None
    world = World()
    world.start()
    world.add(2)
    world.run()
    world.execute(commands.RequestConsolidation(description=""))
    assert date_due(at_three, UTC, world.state, now) is None
