"""Compatibility of settings with trained weights: the keys of keepstep.toml that training fixes.

Weights are useful only with the model that they were trained on, the method that shaped them, the tokens that they saw
and the length that those were cut to. Tokenizer and chat template have no key here: they come with the model's
directory, and the worker compares their fingerprint, and that of the base itself, with each checkpoint that it loads
(`gpu.artifacts.compatibility.Ground`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from core.values import WeightSettings
from events.settings import JobSettings

if TYPE_CHECKING:
    from core.state import State


class Difference(NamedTuple):
    """A key whose value is not the one that the weights were trained under."""

    key: str
    trained: object
    wanted: object


def weight_settings(settings: JobSettings) -> WeightSettings:
    """The part of the settings that weights trained under them depend on."""
    return WeightSettings(settings.model, settings.method, settings.data.max_length)


def differences(trained: WeightSettings | None, wanted: JobSettings, *, unpublished: bool = True) -> list[Difference]:
    """The keys for which the trained weights and the wanted settings are incompatible.

    `unpublished`: some training is in no version yet. If none is, a method of the same kind may take another shape, and
    examples another length: it starts fresh from a version. Code that comes with a model (`trust_remote_code`) does not
    change the weights. Nor does a revision for a hub id that had none: the worker compares the bytes of the base with
    those that were trained on.
    """
    if trained is None:
        return []
    pairs = [("model", trained.model, wanted.model)]
    if unpublished or type(trained.method) is not type(wanted.method):
        pairs.append(("method", trained.method, wanted.method))  # type: ignore[arg-type]  # sections, all of them
    found = [
        Difference(key, then, now)
        for section, ours, theirs in pairs
        for key, then, now in _fields(section, ours, theirs)
        if then != now and key != "model.trust_remote_code" and not (key == "model.revision" and not then)
    ]
    if unpublished and trained.max_length and trained.max_length != wanted.data.max_length:
        found.append(Difference("data.max_length", trained.max_length, wanted.data.max_length))
    return found


def settings_conflict(trained: WeightSettings | None, wanted: JobSettings, *, unpublished: bool = True) -> str | None:
    """Why training cannot continue under the wanted settings; None if it can."""
    found = [
        f"{each.key} is {_shown(each.wanted)}, and the weights were trained with {_shown(each.trained)}"
        for each in differences(trained, wanted, unpublished=unpublished)
    ]
    return "; ".join(found) or None


def fixed_settings(state: State) -> WeightSettings | None:
    """The settings that the next file must agree with: those of the head, or of the first training while it runs."""
    job = state.training.current
    running = state.attempts.current is not None
    if state.head.checkpoint is None and job is not None and running and job.settings is not None:
        return weight_settings(job.settings)  # its first commit will say the same
    return state.head.weight_settings


def has_unpublished_training(state: State) -> bool:
    """True if some training is in no version: committed, or running."""
    training = state.attempts.current is not None and state.consolidation.running is None
    return state.head.checkpoint is not None or training


def _fields(section: str, ours: object, theirs: object) -> list[tuple[str, object, object]]:
    if type(ours) is not type(theirs):
        return [(f"{section}.kind", _kind(ours), _kind(theirs))]
    names = getattr(ours, "__struct_fields__", ())
    return [(f"{section}.{name}", getattr(ours, name), getattr(theirs, name)) for name in names]


def _kind(settings: object) -> str:
    return str(getattr(settings, "__struct_config__").tag)  # noqa: B009  # msgspec adds it; mypy does not see it


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
