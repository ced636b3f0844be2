"""What weights mean, and the keys of keepstep.toml that decide it.

Weights mean something only together with the model they were trained on, the method that shaped them, the tokens that
they saw and the length that those were cut to. Tokenizer and chat template have no key here: they come with the model's
directory, and the worker holds their fingerprint, and that of the base itself, against each checkpoint that it loads
(`gpu.artifacts.compatibility.Ground`).
"""

from __future__ import annotations

from typing import NamedTuple

from core.state import State
from core.versions import Meaning
from events.settings import JobSettings


class Difference(NamedTuple):
    """A key that is not what was learned under."""

    key: str
    trained: object
    wanted: object


def meaning_of(settings: JobSettings) -> Meaning:
    """What weights mean that are learned under these settings."""
    return Meaning(settings.model, settings.method, settings.data.max_length)


def differences(trained: Meaning | None, wanted: JobSettings, *, learning: bool = True) -> list[Difference]:
    """Where the wanted settings would give what was learned another meaning.

    `learning`: something is learned that no version holds yet. When nothing is, a method of the same kind may take
    another shape, and examples another length: it begins anew beside a version. Code that comes with a model
    (`trust_remote_code`) does not change what weights mean. Nor does pinning a hub id that had no revision: the worker
    compares the bytes of the base with those that were trained on.
    """
    if trained is None:
        return []
    pairs = [("model", trained.model, wanted.model)]
    if learning or type(trained.method) is not type(wanted.method):
        pairs.append(("method", trained.method, wanted.method))  # type: ignore[arg-type]  # sections, all of them
    found = [
        Difference(key, then, now)
        for section, ours, theirs in pairs
        for key, then, now in _fields(section, ours, theirs)
        if then != now and key != "model.trust_remote_code" and not (key == "model.revision" and not then)
    ]
    if learning and trained.max_length and trained.max_length != wanted.data.max_length:
        found.append(Difference("data.max_length", trained.max_length, wanted.data.max_length))
    return found


def locked_by(state: State) -> Meaning | None:
    """What the settings of the next file must agree with: what was learned, or what is being learned first of all."""
    job = state.current
    if state.head is None and job is not None and state.attempt is not None and job.settings is not None:
        return meaning_of(job.settings)  # its first commit will say the same
    return state.meaning


def trains_weights(state: State) -> bool:
    """Whether there is something that no version holds: committed, or on its way."""
    return state.head is not None or (state.attempt is not None and state.consolidation is None)


def _fields(section: str, ours: object, theirs: object) -> list[tuple[str, object, object]]:
    if type(ours) is not type(theirs):
        return [(f"{section}.kind", _kind(ours), _kind(theirs))]
    names = getattr(ours, "__struct_fields__", ())
    return [(f"{section}.{name}", getattr(ours, name), getattr(theirs, name)) for name in names]


def _kind(settings: object) -> str:
    return str(getattr(settings, "__struct_config__").tag)  # noqa: B009  # msgspec adds it; mypy does not see it
