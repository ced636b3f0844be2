"""The base of all events."""

from __future__ import annotations

from msgspec import Struct


class Event(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", gc=False
):  # gc=False: events hold no cycles, and a replay makes millions of them
    """A fact. It is immutable, and encoded with its kind and its version."""
