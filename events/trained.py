"""The part of a model that an attempt trains, and the files that weights were trained on."""

from __future__ import annotations

from msgspec import Struct

from events.values import JobId


class Trained(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The trained part of a model, in numbers."""

    layers: dict[str, int]
    """For an adapter: the last part of the adapted layers' names → number of such layers; {}: every weight is
    trained."""
    parameters: int
    """Trained parameters."""
    share: float
    """Share of all parameters of the model, including the adapter's; from 0 to 1."""


class TrainedFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data file, or some steps of one, that weights were trained on."""

    name: str
    sha256: JobId
    rows: int
    epochs: int
    steps: tuple[int, int]
    """The first and the last global step."""
