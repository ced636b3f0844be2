"""Making a home."""

from __future__ import annotations

import secrets
from pathlib import Path

from cli.config import METHODS, Config
from cli.config_text import config_text
from cli.errors import UserError
from cli.home import Home
from cli.ledger import Ledger
from cli.version import VERSION
from core.commands import CreateHome
from events.settings import JobSettings, ModelSettings, TrainingSettings
from events.text import visible
from journal import durable


def create_home(directory: Path, *, model: str, method: str = "lora", config: Config | None = None) -> Home:
    """Make a home in `directory`. Its keepstep.toml is written last: a home that has one is complete.

    Raises UserError if there is one already, OSError.
    """
    home = Home(directory.expanduser().absolute())
    if home.config.exists():
        raise UserError(f"{home.root} is a home already", "edit its keepstep.toml, or choose another directory")
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}", f"choose one of {', '.join(METHODS)}")
    if config is None:
        config = Config(
            job=JobSettings(
                model=ModelSettings(path=_from_anywhere(model)),
                method=METHODS[method](),  # type: ignore[arg-type]  # each of them is one of MethodSettings
                training=_training(method),
            )
        )
    lay_out(home, config_text(config).encode())
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
    named = str(path.absolute()) if path.is_dir() else model
    if visible(named) != named:
        raise UserError(
            f"keepstep.toml is UTF-8 and cannot hold the path of the model, {named}",
            "name it by a link whose path is UTF-8, or put it into the home and set [model] path there",
        )
    if path.is_dir():
        return named
    if model.startswith(("/", ".", "~")):
        raise UserError(f"there is no model directory at {path.absolute()}", "name one that exists, or a hub id")
    return model


def _training(method: str) -> TrainingSettings:
    if method == "full":
        return TrainingSettings(learning_rate=1e-5)  # every weight moves: what suits an adapter would wreck the model
    return TrainingSettings()
