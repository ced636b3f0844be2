"""Pin hub ids to commits: `init` resolves the commit, and other commands say how to pin a home without one.

A hub id names the latest upload of its owner. Weights that are trained on one upload mean nothing on the next, so a
home keeps the commit: `[model] revision`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from cli.errors import UserError
from cli.home.paths import Home
from events.text import visible


class ModelReference(NamedTuple):
    """A model as the user named it, with its commit."""

    path: str
    """An absolute directory, or a hub id."""
    revision: str = ""
    """The commit of a hub id; "" for a directory, or if the hub cannot be reached."""
    note: str = ""
    """A message for the user; "": none."""


def resolve_model(model: str) -> ModelReference:
    """Resolve the model that the command line names; a hub id gets the commit that it means now.

    A hub id may carry a branch, a tag or a commit: `organisation/name@revision`. Raises UserError.
    """
    from gpu.model import hub

    path, at, revision = (model, "", "") if Path(model).expanduser().is_dir() else model.partition("@")
    location = model_location(path)
    if location != path or Path(location).is_absolute():
        if at:
            raise UserError(f"{path} is a directory, and a directory has no revisions", f"leave out @{revision}")
        return ModelReference(location)
    if at and not revision:
        raise UserError(f"{model} names no revision", f"write one, as in {path}@main, or leave out the @")
    try:
        commit = hub.resolve(path, revision)
    except hub.CommitNotFound as error:
        if error.is_wrong or revision:
            raise UserError(
                f"{model}: no commit found: {error.reason}",
                "name a revision that exists, or connect; the 40 digits of a commit need no connection",
            ) from error
        return ModelReference(
            path, note=f"{path} is not pinned to a commit: {error.reason}. To pin it: {hub.how_to_pin(None)}"
        )
    return ModelReference(path, commit, f"{path} is pinned to commit {commit}; later uploads do not change this home")


def unpinned_note(home: Home) -> str:
    """A note on a home whose hub id has no commit, with the command that pins it; "": no note is needed."""
    from cli.config.schema import load_config
    from gpu.errors import ModelUnusable
    from gpu.model import hub
    from gpu.model.base import base_directory, is_hub_id

    try:
        model = load_config(home.config, storage=home.storage).job.model
        if model.revision or not is_hub_id(model.path, home.root):
            return ""
        found = base_directory(model.path, home.root, fetch=False)
    except (UserError, ModelUnusable, OSError):
        return ""  # the command that needs the config or the model reports it
    return (
        f"[model] revision is not set: {model.path} is used as the cache has it, at commit {found.name}. "
        f"To pin it: {hub.how_to_pin(found)}"
    )


def model_location(model: str) -> str:
    """The absolute path of a directory, or a hub id unchanged. Raises UserError."""
    from gpu.model.base import is_missing_directory

    path = Path(model).expanduser()
    named = str(path.absolute()) if path.is_dir() else model
    if visible(named) != named:
        raise UserError(
            f"keepstep.toml is UTF-8 and cannot hold the path of the model, {named}",
            "name it by a link whose path is UTF-8, or put it into the home and set [model] path there",
        )
    if path.is_dir():
        _refuse_unusable(path.absolute())
        return named
    if path.exists():
        raise UserError(f"{path.absolute()} is a file, not the directory of a model", "name its directory, or a hub id")
    if is_missing_directory(model, Path.cwd()):
        raise UserError(
            f"there is no model directory at {path.absolute()}, and {model} is not a hub id",
            "name a directory that exists, or a hub id such as organisation/name",
        )
    return model


def _refuse_unusable(directory: Path) -> None:
    """Raise UserError if the directory does not hold a model that can be trained and merged."""
    from gpu.model.base import find_model_problem
    from gpu.model.files import CONFIG

    if not (directory / CONFIG).exists():
        return  # it may be filled later; `keepstep doctor` and the first job check it
    try:
        problem = find_model_problem(directory)
    except (OSError, msgspec.MsgspecError) as error:
        raise UserError(f"the model at {directory} cannot be read: {error}", "download it again") from error
    if problem is not None:
        raise UserError(f"the model at {directory} {problem.what}", problem.advice)
