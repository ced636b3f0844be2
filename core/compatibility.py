"""Compatibility of settings with trained weights: the keys of keepstep.toml that training fixes.

Weights are useful only with the model that they were trained on, the method that shaped them, the tokens that they saw
and the length that those were cut to. Tokenizer and chat template have no key here: they come with the model's
directory, and the worker compares their fingerprint, and that of the base itself, with each checkpoint that it loads
(`gpu.artifacts.compatibility.Ground`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from core.values import WeightSettings
from events.settings import FullSettings, JobSettings, ModelSettings

if TYPE_CHECKING:
    from core.state import State


NOT_COMPARED = frozenset({"model.path", "model.revision", "model.trust_remote_code"})


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

    `unpublished`: some training is in no version yet. If none is, the next adapter starts fresh from a version: it may
    have another shape and kind, the frozen weights another type in memory, and examples another length. A version is
    the float32 sum of the origin and all adapters since, or the float32 weights of full training: the two do not mix.

    The path and the revision of the base do not count, because only its bytes do: the worker compares their SHA-256
    with those that were trained on. Code that comes with a model (`trust_remote_code`) does not change the weights.
    """
    if trained is None:
        return []
    pairs: list[tuple[str, object, object]] = [
        ("model", trained.model, wanted.model),
        ("method", trained.method, wanted.method),
    ]
    if not unpublished:
        same = isinstance(trained.method, FullSettings) == isinstance(wanted.method, FullSettings)
        pairs = [] if same else pairs[1:]
    found = [
        Difference(key, then, now)
        for section, ours, theirs in pairs
        for key, then, now in _fields(section, ours, theirs)
        if then != now and key not in NOT_COMPARED
    ]
    if unpublished and trained.max_length and trained.max_length != wanted.data.max_length:
        found.append(Difference("data.max_length", trained.max_length, wanted.data.max_length))
    return found


def with_base_of(settings: JobSettings, now: ModelSettings) -> JobSettings:
    """The settings of an earlier job, with the base where it is now: it may have been moved since."""
    return replace(settings, model=replace(settings.model, path=now.path, revision=now.revision))


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
    other = state.consolidation.running is not None or state.evaluations.running is not None
    training = state.attempts.current is not None and not other
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
