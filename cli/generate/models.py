"""Find a model of a home by its name.

base                  the model that keepstep.toml names
origin                the model that the first version or checkpoint was trained on
head                  what the next step starts from: the newest checkpoint, else its version, else the base
latest                the newest version
v001, v1, 1           a version
step-00000003…, 3     a checkpoint, by the beginning of its name or by its step
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from cli.arguments.resolve import checkpoints, detached, matching, versions
from cli.config.schema import load_config
from cli.errors import UserError
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from core.topics.head import find_checkpoint, nothing_trained
from events.generation import ModelSource

if TYPE_CHECKING:
    from core.state import State
    from core.values import Checkpoint, Version
    from events.settings import JobSettings

BASE = "base"
ORIGIN = "origin"
HEAD = "head"
LATEST = "latest"

SHOWN_MAX = 8
"""The most names of a kind that an error lists."""


class UnknownModel(UserError):
    """The home has no model of this name, or no longer."""


class NamedModel(NamedTuple):
    """A model of a home."""

    name: str
    """The name that the user gave."""
    description: str
    """Its present meaning, for example the checkpoint that the head is."""
    source: ModelSource
    note: str = ""
    """A sentence for the user, if it is not what the name suggests."""


def find_model(home: Home, name: str) -> NamedModel:
    """The model of this name now. Raises UserError (UnknownModel), journal.errors.JournalError."""
    state, settings = load_state(home)[0].state, load_config(home.config, storage=home.storage).job
    match name:
        case "base":
            return _base(name, settings)
        case "origin":
            return _origin(home, state, settings)
        case "head":
            return _head(state, settings)
        case "latest":
            if not state.retention.versions:
                raise UnknownModel("there is no version yet", "`keepstep consolidate` makes one; or use head or base")
            return _version(name, state.retention.versions[-1], settings)
    return _named(name, state, settings)


def _base(name: str, settings: JobSettings, note: str = "") -> NamedModel:
    return NamedModel(name, settings.model.path, ModelSource(settings=settings), note)


def _origin(home: Home, state: State, settings: JobSettings) -> NamedModel:
    """The model that was trained on first. If its directory was moved, the config names the new place: training needs
    the same bytes."""
    trained = state.head.weight_settings
    if trained is not None and (home.root / Path(trained.model.path).expanduser()).exists():
        settings = replace(settings, model=trained.model)
    return _base(ORIGIN, settings)


def _head(state: State, settings: JobSettings) -> NamedModel:
    head = state.head
    if head.pending_restore is not None:
        raise UserError(
            f"the head is in the backup {head.pending_restore}, and is restored when the daemon runs next",
            "`keepstep run`; or name another model: --model base",
        )
    if head.checkpoint is not None:
        return _checkpoint(HEAD, head.checkpoint, head.base, settings)
    version = state.retention.version(head.base)
    if version is not None:
        return _version(HEAD, version, settings)._replace(
            note=f"nothing is trained since {version.id}: {version.id} answers"
        )
    moved_away = state.retention.versions or head.detached
    why = nothing_trained(state) if moved_away else "nothing is trained yet"
    return _base(HEAD, settings, f"{why}: the base model answers")


def _version(name: str, version: Version, settings: JobSettings) -> NamedModel:
    source = ModelSource(settings=settings, version=version.id, manifest_sha256=version.manifest_sha256)
    return NamedModel(name, version.id, source)


def _checkpoint(name: str, checkpoint: Checkpoint, base: str | None, settings: JobSettings) -> NamedModel:
    source = ModelSource(
        settings=settings, version=base, checkpoint=checkpoint.id, manifest_sha256=checkpoint.manifest_sha256
    )
    return NamedModel(name, f"{checkpoint.id} on {base or settings.model.path}", source)


def _named(name: str, state: State, settings: JobSettings) -> NamedModel:
    """The version or the checkpoint that `name` names. Raises UserError if there is none, or several."""
    kind, found = "versions", matching(name, versions(state)) if name[-1:].isdecimal() else []  # `v` names none
    if not found:
        kind, found = "checkpoints", matching(name, [*checkpoints(state), *detached(state)])
    if len(found) > 1:
        listed = ", ".join(_shortened([each.id for each in found]))
        raise UnknownModel(f"{len(found)} {kind} match {name!r}: {listed}", "write more of the name")
    if not found:
        names = [BASE, ORIGIN, HEAD, *([LATEST] if state.retention.versions else [])]
        names += _shortened([each.id for each in state.retention.versions])
        names += _shortened([each.id for each in _checkpoints(state)])
        raise UnknownModel(f"there is no model {name!r}", f"choose one of: {', '.join(names)}")
    if (version := state.retention.version(found[0].id)) is not None:
        return _version(name, version, settings)
    kept = find_checkpoint(state, found[0].id)
    assert kept is not None  # it is one of them
    return _checkpoint(name, kept.checkpoint, kept.base, settings)


def _checkpoints(state: State) -> Sequence[Checkpoint]:
    """Every checkpoint: those of the head's branch, and detached ones."""
    return [*state.head.checkpoints, *(each.checkpoint for each in state.head.detached)]


def _shortened(names: Sequence[str]) -> list[str]:
    """The newest of these names, and a note if there are more."""
    if len(names) <= SHOWN_MAX:
        return [*names]
    return [f"… ({len(names) - SHOWN_MAX} older)", *names[-SHOWN_MAX:]]
