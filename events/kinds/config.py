"""Changes of keepstep.toml."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from events.event import Event
from events.values import JobId


class Change(Struct, frozen=True):
    """A key of the config that has a new value."""

    key: str
    """Section and name: `training.learning_rate`."""
    before: str
    """As keepstep.toml writes it; "": the key was not there."""
    now: str


class ConfigChanged(Event, frozen=True, kw_only=True, tag="config_changed"):
    """Some keys have new values from here on."""

    v: Literal[1] = 1
    job: JobId | None
    """The first job that trains under them; None: they do not affect training, and apply at once."""
    changes: tuple[Change, ...]


class ConfigRefused(Event, frozen=True, kw_only=True, tag="config_refused"):
    """keepstep.toml was edited and cannot be used as it is. The running attempt continues."""

    v: Literal[1] = 1
    reason: str
    advice: str


class ConfigFixed(Event, frozen=True, kw_only=True, tag="config_fixed"):
    """keepstep.toml can be used again."""

    v: Literal[1] = 1
