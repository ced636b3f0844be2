"""Errors of the state machine, named by whose fault they are."""

from __future__ import annotations


class CoreError(Exception):
    """Base of everything that `core` raises."""


class Refused(CoreError):
    """A command cannot be carried out now. The message is the reason, for the person who gave the command."""


class IllegalEvent(CoreError):
    """The journal holds an event that cannot follow the events before it: a bug, or somebody changed the journal.

    Data: `kind` of the event, `status` it met.
    """

    def __init__(self, kind: str, status: str, reason: str = "") -> None:
        self.kind = kind
        self.status = status
        detail = f": {reason}" if reason else ""
        super().__init__(f"{kind} cannot happen while {status}{detail}")
