"""Times for people and for scripts."""

from __future__ import annotations

import time

import pytest

from cli.output.times import iso, local, local_clock, local_time, unix, with_iso_times


@pytest.fixture(autouse=True)
def _berlin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()


def test_people_get_local_times_with_their_zone() -> None:
    """In summer and in winter."""
    assert local("2026-07-01T12:00:00.5Z") == "2026-07-01 14:00:00 CEST"
    assert local_time(unix("2026-01-01T12:00:00Z")) == "2026-01-01 13:00 CET"
    assert local_clock(unix("2026-01-01T12:00:00Z")) == "13:00 CET"


def test_scripts_get_iso_8601_in_utc() -> None:
    """Wherever a Unix time stands; other numbers stay."""
    assert iso(unix("2026-01-01T12:00:00.250000Z")) == "2026-01-01T12:00:00.250000Z"
    given = {"rows": [{"made_at": 1.0, "at": 2, "step": 3}], "heartbeat_at": 0.0, "since": None, "retry_at": "soon"}
    assert with_iso_times(given) == {
        "rows": [{"made_at": "1970-01-01T00:00:01.000000Z", "at": "1970-01-01T00:00:02.000000Z", "step": 3}],
        "heartbeat_at": None,
        "since": None,
        "retry_at": "soon",
    }
