"""Keys of keepstep.toml that trained weights lock, and what unlocks them.

The base is locked by its bytes, not by its place: a base that was moved is the same one. The others are locked by their
values (`core.compatibility`).
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from cli.config.schema import Config, load_config
from cli.config.text_edit import toml
from cli.errors import UserError
from cli.home.paths import Home
from core.compatibility import (
    differences,
    fixed_settings,
    has_unpublished_training,
    settings_conflict,
    with_base_of,
)
from core.state import State
from events.settings import AdapterSettings, JobSettings, ModelSettings
from journal import durable

DOES_NOT_FIT = "keepstep.toml does not fit the trained weights"

ANOTHER_BASE = (
    "a base that was moved or copied is accepted if every byte is the same; another base needs another home: "
    "`keepstep init`"
)


def find_conflicts(home: Home, state: State, wanted: JobSettings, *, reads: bool) -> list[UserError]:
    """Why the next job cannot train under these settings; [] if it can. `reads`: as in `find_base_conflict`."""
    problem = settings_conflict(fixed_settings(state), wanted, unpublished=has_unpublished_training(state))
    found = [UserError(f"{DOES_NOT_FIT}: {problem}", f"set the old value again; or {what_to_do(state, wanted)}")]
    base = find_base_conflict(home, state, wanted.model, reads=reads)
    return [
        *(found if problem is not None else ()),
        *([UserError(f"{DOES_NOT_FIT}: {base.reason}", base.advice)] if base is not None else ()),
    ]


def locked_keys(state: State, config: Config) -> set[str]:
    """The keys that `refuse_if_locked` refuses to change now."""
    trained = fixed_settings(state)
    if trained is None:
        return set()
    locked = {"model.path", "model.revision"} if trained.model.revision else {"model.path"}
    if not isinstance(config.job.method, AdapterSettings):
        locked.add("method.kind")  # also after a version
    if has_unpublished_training(state):
        locked |= {"model.dtype", "method.kind", "data.max_length"}
        locked |= {f"method.{name}" for name in config.job.method.__struct_fields__}
    return locked


def refuse_if_locked(home: Home, state: State, keys: set[str], before: dict[str, Any], wanted: JobSettings) -> None:
    """Raise UserError if one of the changed `keys` decides what the trained weights mean. `before`: the old values."""
    trained = fixed_settings(state)
    if trained is None:
        return
    found = {each.key: each for each in differences(trained, wanted, unpublished=has_unpublished_training(state))}
    for key in sorted(keys, key=lambda key: (key not in found, key)):
        difference = found.get(key) or (found.get("method.kind") if key.startswith("method.") else None)
        if difference is not None:
            raise UserError(
                f"{key} is locked and was not changed: it is {_shown(before.get(key))} in keepstep.toml, and the "
                f"weights trained since {_since(state)} have {_shown(difference.trained)}. Weights trained under one "
                "value mean nothing under another",
                what_to_do(state, wanted),
            )
    if keys & {"model.path", "model.revision"}:
        key = "model.path" if "model.path" in keys else "model.revision"
        if error := find_base_conflict(home, state, wanted.model, reads=True):
            raise UserError(f"{key} is locked and was not changed: {error.reason}", error.advice)


def find_base_conflict(home: Home, state: State, wanted: ModelSettings, *, reads: bool) -> UserError | None:
    """Why `wanted` is not the base that the weights were trained on, by its bytes; None if it is.

    Without `reads`, only what an earlier comparison found counts: the daemon does not stop for minutes to read a base.
    """
    from gpu.errors import ModelUnusable

    trained = fixed_settings(state)
    if trained is None or (trained.model.path, trained.model.revision) == (wanted.path, wanted.revision):
        return None
    if trained.model.path == wanted.path and not trained.model.revision:
        return None  # a hub id is pinned: the worker compares the bytes
    named, was = f"the model at {_name(wanted)}", f"the base of this home ({_name(trained.model)})"
    try:
        found = _sha256_of(home, wanted, reads=reads)
    except (ModelUnusable, OSError) as error:
        return UserError(f"{named} cannot be compared with {was}: {error}", ANOTHER_BASE)
    if found is None:
        return UserError(
            f"{named} has not been compared with {was}", "`keepstep config check` reads it and compares every byte"
        )
    sha256: str | None = _trained_sha256(home, state)
    if not sha256:
        with suppress(ModelUnusable, OSError):
            sha256 = _sha256_of(home, trained.model, reads=reads)
    if not sha256:
        return UserError(
            f"{named} cannot be compared with {was}: that is gone, and no checkpoint records its bytes",
            "put the base back; or, while the first job runs, wait until it has committed",
        )
    if found == sha256:
        return None
    return UserError(f"{named} is not {was}: its SHA-256 is {found[:16]}…, not {sha256[:16]}…", ANOTHER_BASE)


def compared(home: Home) -> Path:
    """The directory with the SHA-256 of each base that was compared, by its path, sizes and times."""
    return home.root / "cache" / "bases"


def _sha256_of(home: Home, model: ModelSettings, *, reads: bool) -> str | None:
    """The SHA-256 of a base; None: it would have to be read. Raises ModelUnusable, OSError."""
    from gpu.model.base import base_directory, base_files, base_sha256

    directory = base_directory(model.path, home.root, revision=model.revision, fetch=False)
    found = [((directory / name).resolve(), (directory / name).stat()) for name in base_files(directory)]
    key = repr([(str(path), each.st_size, each.st_mtime_ns) for path, each in found])
    known = compared(home) / hashlib.sha256(key.encode()).hexdigest()
    with suppress(OSError):
        return known.read_text(encoding="ascii")
    if not reads:
        return None
    sha256 = base_sha256(directory)
    with suppress(OSError):  # of a home that this user may only read
        known.parent.mkdir(parents=True, exist_ok=True)
        durable.write_atomically(known, sha256.encode(), sync=False)
    return sha256


def _name(model: ModelSettings) -> str:
    return f"{model.path}@{model.revision}" if model.revision else model.path


def with_present_base(home: Home, settings: JobSettings) -> JobSettings:
    """The settings of an earlier job. If its base is gone, the base is where keepstep.toml says; the worker compares
    the bytes. Raises UserError if keepstep.toml cannot be read then."""
    from gpu.errors import ModelUnusable
    from gpu.model.base import base_directory

    try:
        base_directory(settings.model.path, home.root, revision=settings.model.revision, fetch=False)
    except ModelUnusable:
        return with_base_of(settings, load_config(home.config, storage=home.storage).job.model)
    return settings


def what_to_do(state: State, wanted: JobSettings) -> str:
    """Advice on how to get to the wanted settings. Some need another home: a version does not unlock them."""
    if differences(fixed_settings(state), wanted, unpublished=False):
        return (
            "make another home for it (`keepstep init`): every version of this home is the sum of what one kind of "
            "method, adapters or full weights, trained on one base"
        )
    waits = "" if state.head.checkpoint is not None else ", once the running job has a checkpoint"
    return f"run `keepstep consolidate`{waits}, or `keepstep versions rollback` to drop that training; then try again"


def _since(state: State) -> str:
    step = f" (step {state.head.global_step})" if state.head.checkpoint is not None else ""
    return f"{state.head.base or 'the origin'}{step}"


def _trained_sha256(home: Home, state: State) -> str:
    """The SHA-256 of the origin that this home trained on; "": neither a version nor a checkpoint says it."""
    from gpu.artifacts.manifest import read_manifest
    from gpu.artifacts.version_manifest import read_version_manifest
    from gpu.errors import CheckpointBroken

    head = state.head
    try:
        if head.base is not None:
            return read_version_manifest(home.versions / head.base).origin_sha256
        if head.checkpoint is not None:
            return read_manifest(home.checkpoints / head.checkpoint.id).lineage.base_sha256
    except (CheckpointBroken, OSError, ValueError):
        pass  # `keepstep doctor` says that it is damaged; the base's own files may still tell
    return ""


def _shown(value: Any) -> str:
    return "not set" if value is None else toml(value)
