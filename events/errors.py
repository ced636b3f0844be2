"""Errors of events, named by whose fault they are."""

from __future__ import annotations


class EventError(Exception):
    """Base of everything that `events` raises."""


class UnknownEvent(EventError):
    """The record is intact, but a newer keepstep wrote it (or another program).

    Data: `kind`, `version`, both as found.
    """

    def __init__(self, kind: str, version: object, reason: str) -> None:
        self.kind = kind
        self.version = version
        super().__init__(
            f"cannot read an event of kind {kind!r}, version {version!r}: {reason}. "
            "A newer keepstep probably wrote it: use that one, or look at the record with `keepstep journal show`."
        )


class UnwritableEvent(EventError):
    """An event would not read back as it was written, so it is not journaled. A bug in keepstep."""
