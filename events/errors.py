"""What can be wrong with an event, named by whose fault it is."""

from __future__ import annotations


class EventError(Exception):
    """Base of everything that `events` raises."""


class UnknownEvent(EventError):
    """The bytes are whole, but this program is older than they are (or they are not keepstep's).

    Data: `kind`, `version`, both as found.
    """

    def __init__(self, kind: str, version: object, reason: str) -> None:
        self.kind = kind
        self.version = version
        super().__init__(
            f"cannot read an event of kind {kind!r}, version {version!r}: {reason}. "
            "It was probably written by a newer keepstep; use that one, or look at it with `journal show`."
        )


class UnwritableEvent(EventError):
    """An event would not read back as it was written, so it must not be journaled. A bug in keepstep."""
