"""Recent troubles, as the status shows them."""

from __future__ import annotations

from msgspec import Struct

TERMINAL_CLOSED = "the terminal was closed"
"""The reason in `daemon_stopped` after SIGHUP: nobody asked the daemon to stop, and nothing crashed."""


class Trouble(Struct, frozen=True):
    """A failure or a warning, as the status shows it."""

    seq: int
    at: str
    kind: str
    message: str
