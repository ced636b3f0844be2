"""The facts of keepstep.toml. A part of `kinds.py`, which has the rules for all of them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from events.event import Event
from events.values import JobId


class Change(Struct, frozen=True):
    """A key of the config that has another value now."""

    key: str
    """Section and name: `training.learning_rate`."""
    before: str
    """As keepstep.toml writes it; "": it was not there."""
    now: str


class ConfigChanged(Event, frozen=True, kw_only=True, tag="config_changed"):
    """Some keys have other values from here on."""

    v: Literal[1] = 1
    job: JobId | None
    """The first that is learned under them; None: they change nothing that is learned, and hold at once."""
    changes: tuple[Change, ...]


class ConfigRefused(Event, frozen=True, kw_only=True, tag="config_refused"):
    """keepstep.toml was edited and is not used as it is now. What runs is not touched."""

    v: Literal[1] = 1
    reason: str
    advice: str


class ConfigFixed(Event, frozen=True, kw_only=True, tag="config_mended"):
    """keepstep.toml can be used again."""

    v: Literal[1] = 1


AnyChange = ConfigChanged | ConfigRefused | ConfigFixed
