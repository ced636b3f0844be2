"""Making a home."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import NamedTuple

from cli.config import METHODS, Config
from cli.config_text import config_text
from cli.errors import UserError
from cli.home import Home
from cli.ledger import Ledger
from cli.version import VERSION
from core.commands import CreateHome
from events.settings import JobSettings, ModelSettings, TrainingSettings
from journal import durable


class Named(NamedTuple):
    """What a person named as the model."""

    path: str
    """A directory, absolute, or a hub id."""
    revision: str = ""
    """The commit of a hub id; "": there is none, or it could not be found out."""
    note: str = ""
    """What to tell the person."""


def create_home(
    directory: Path, *, model: str, revision: str = "", method: str = "lora", config: Config | None = None
) -> Home:
    """Make a home in `directory`. Its keepstep.toml is written last: a home that has one is complete.

    Raises UserError if there is one already, OSError.
    """
    home = refuse_home(directory)
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}", f"choose one of {', '.join(METHODS)}")
    if config is None:
        config = Config(
            job=JobSettings(
                model=ModelSettings(path=_from_anywhere(model), revision=revision),
                method=METHODS[method](),  # type: ignore[arg-type]  # each of them is one of MethodSettings
                training=_training(method),
            )
        )
    lay_out(home, config_text(config).encode())
    return home


def refuse_home(directory: Path) -> Home:
    """The home that `directory` can become. Raises UserError if it is one already."""
    home = Home(directory.expanduser().absolute())
    if home.config.exists():
        raise UserError(f"{home.root} is a home already", "edit its keepstep.toml, or choose another directory")
    return home


def lay_out(home: Home, config: bytes) -> None:
    """Make what a home consists of; once more, from wherever it was left, is the same. Raises OSError."""
    for path in home.directories():
        durable.make_directory(path, storage=home.storage)
    if not home.storage.exists(home.journal):  # an init that was killed had come so far
        Ledger.create(home, CreateHome(home_id=secrets.token_hex(16), keepstep=VERSION))
    for name in home.storage.names(home.root):
        if name.startswith(f".{home.config.name}.") and durable.is_temporary(name):
            home.storage.unlink(home.root / name)
    durable.write_atomically(home.config, config, sync=True, storage=home.storage)


def _from_anywhere(model: str) -> str:
    """A directory by its absolute path, for the home is elsewhere than the person who names it; a hub id as it is."""
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path.absolute())
    if model.startswith(("/", ".", "~")):
        raise UserError(f"there is no model directory at {path.absolute()}", "name one that exists, or a hub id")
    return model


def pinned_model(model: str) -> Named:
    """The model named on the command line, a hub id with the commit that it means now.

    A hub id may name a branch, a tag or a commit: `organisation/name@revision`. Raises UserError.
    """
    from gpu import hub

    path, at, revision = (model, "", "") if Path(model).expanduser().is_dir() else model.partition("@")
    location = _from_anywhere(path)
    if location != path or Path(location).is_absolute():
        if at:
            raise UserError(f"{path} is a directory, and a directory has no revisions", f"name it without @{revision}")
        return Named(location)
    if at and not revision:
        raise UserError(f"{model} names no revision", f"write one: {path}@main, or leave out the @")
    try:
        commit = hub.resolve(path, revision)
    except hub.NoCommit as error:
        if error.is_wrong or revision:
            raise UserError(
                f"{model}: {error.reason}",
                "name a directory, or a hub id and a revision that exist; a commit needs no connection",
            ) from error
        return Named(path, note=f"{path} is not pinned to a commit: {error.reason}. {hub.unpinned(path, None)}")
    return Named(path, commit, f"{path} is pinned to commit {commit}: what its owner changes later does not reach it")


def _training(method: str) -> TrainingSettings:
    if method == "full":
        return TrainingSettings(learning_rate=1e-5)  # every weight moves: what suits an adapter would wreck the model
    return TrainingSettings()
