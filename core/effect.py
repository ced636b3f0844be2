"""What every effect is."""

from __future__ import annotations

from msgspec import Struct

from events import messages


class Effect(Struct, frozen=True, kw_only=True):
    """Work that the state requires, to be carried out in the world."""


class SendToWorker(Effect, frozen=True, kw_only=True):
    """Send this message to the worker of its attempt, once. A worker starts if none is up."""

    message: messages.Prepare | messages.Train | messages.Consolidate | messages.EvaluateVersion | messages.Yield
