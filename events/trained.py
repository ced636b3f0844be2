"""What an attempt trains of its model."""

from __future__ import annotations

from msgspec import Struct


class Trained(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The trained part of a model, in numbers."""

    layers: dict[str, int]
    """Of an adapter: the last part of the adapted layers' names, with how many layers have it; {}: every weight."""
    parameters: int
    """Trained numbers."""
    share: float
    """Of all numbers of the model, the adapter's included; from 0 to 1."""
