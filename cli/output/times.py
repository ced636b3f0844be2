"""Times: local with the time zone for people, ISO 8601 in UTC for scripts. Every command takes them from here."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any


def local_time(at: float) -> str:
    """A Unix time in the local time zone, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(at))


def local_clock(at: float) -> str:
    """The hour and the minute of a Unix time in the local time zone."""
    return time.strftime("%H:%M %Z", time.localtime(at))


def local(at: str) -> str:
    """A time of the journal in the local time zone, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(unix(at)))


def unix(at: str) -> float:
    """A time of the journal as a Unix time."""
    return datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp()


def iso(at: float) -> str:
    """A Unix time in UTC, as the journal writes it.

    >>> iso(0.0)
    '1970-01-01T00:00:00.000000Z'
    """
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def with_iso_times(value: Any, key: str = "") -> Any:
    """A JSON value in which every Unix time is ISO 8601. A time is a number under `at` or a key that ends in `_at`, or
    under `since`; 0 means never, and becomes null.

    >>> with_iso_times({"made_at": 0.5, "size": 1, "retry_at": None})
    {'made_at': '1970-01-01T00:00:00.500000Z', 'size': 1, 'retry_at': None}
    """
    if isinstance(value, dict):
        return {name: with_iso_times(each, name) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [with_iso_times(each) for each in value]
    is_time = key in {"at", "since"} or key.endswith("_at")
    if is_time and isinstance(value, int | float) and not isinstance(value, bool):
        return iso(value) if value else None
    return value


def duration(seconds: float) -> str:
    """A duration in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def ago(at: float) -> str:
    """The time since `at` (Unix time)."""
    return f"{duration(max(0.0, time.time() - at))} ago"
