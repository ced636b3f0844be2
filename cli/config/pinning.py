"""Hub ids and commits: `init` pins one to the other, and a home that has no commit is told how to pin it.

A hub id names whatever its owner uploaded last. Weights that were trained on one upload mean nothing on the next, so a
home keeps the commit: `[model] revision`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cli.commands.init import from_anywhere
from cli.errors import UserError
from cli.home.paths import Home


class Named(NamedTuple):
    """What a person named as the model."""

    path: str
    """A directory, absolute, or a hub id."""
    revision: str = ""
    """The commit of a hub id; "": a directory has none, and the hub may not be reachable."""
    note: str = ""
    """What to tell the person."""


def pinned_model(model: str) -> Named:
    """The model named on the command line, a hub id with the commit that it means now.

    A hub id may name a branch, a tag or a commit: `organisation/name@revision`. Raises UserError.
    """
    from gpu.model import hub

    path, at, revision = (model, "", "") if Path(model).expanduser().is_dir() else model.partition("@")
    location = from_anywhere(path)
    if location != path or Path(location).is_absolute():
        if at:
            raise UserError(f"{path} is a directory, and a directory has no revisions", f"leave out @{revision}")
        return Named(location)
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
        return Named(path, note=f"{path} is not pinned to a commit: {error.reason}. To pin it: {hub.how_to_pin(None)}")
    return Named(path, commit, f"{path} is pinned to commit {commit}; later uploads do not change this home")


def unpinned_note(home: Home) -> str:
    """What to say of a home whose hub id has no commit, with the command that pins it; "": nothing."""
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
        return ""  # whoever needs the config or the model says what is wrong with it
    return (
        f"[model] revision is not set: {model.path} is used as the cache has it, at commit {found.name}. "
        f"To pin it: {hub.how_to_pin(found)}"
    )
