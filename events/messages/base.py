"""The bases of all messages between the daemon and its worker (`events.messages`)."""

from __future__ import annotations

from msgspec import Struct


class Fact(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="fact"):
    """Something that the worker did or found during `attempt`."""

    attempt: int


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="order"):
    """The next work for `attempt`."""

    attempt: int
