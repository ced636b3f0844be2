"""The part of a model that an attempt trains."""

from __future__ import annotations

from msgspec import Struct


class Trained(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The trained part of a model, in numbers."""

    layers: dict[str, int]
    """For an adapter: the last part of the adapted layers' names → number of such layers; {}: every weight is
    trained."""
    parameters: int
    """Trained parameters."""
    share: float
    """Share of all parameters of the model, including the adapter's; from 0 to 1."""
