"""Copies of validation sets, kept in the home under their SHA-256.

The validation set decides which rows are trained. An attempt is journaled with its SHA-256, so a step that runs again
years later leaves out the same rows, even if the file has changed.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec.structs import replace

from cli.errors import STORAGE_ERRNOS, UserError
from cli.home.paths import Home
from events.settings import JobSettings, Sources
from gpu.artifacts.manifest import describe, describe_open
from journal import durable
from journal.storage import NotAFile

ADVICE = "correct [data] validation in keepstep.toml, or put the file there"


def keep_validation_set(home: Home, settings: JobSettings) -> JobSettings:
    """Copy the validation set of the settings into the home; the settings with its SHA-256. Raises UserError,
    OSError."""
    path = validation_file(home, settings)
    if path is None:
        return settings
    try:
        with durable.opened(home.storage, path, os.O_RDONLY) as fd:
            sha256 = keep_open(home, fd)
    except OSError as error:
        if error.errno in STORAGE_ERRNOS or error.filename != os.fspath(path):
            raise
        raise UserError(f"the validation set {path} cannot be read: {error.strerror}", ADVICE) from error
    return replace(settings, sources=Sources(validation_sha256=sha256))


def keep_open(home: Home, fd: int) -> str:
    """Copy the open file into the home, unless it is there. Returns its SHA-256. Raises OSError."""
    sha256 = describe_open(fd, storage=home.storage).sha256
    return sha256 if home.storage.exists(_kept(home, sha256)) else _keep(home, fd)


def _keep(home: Home, fd: int) -> str:
    """Copy the open file. Returns the SHA-256 of the copy: another process may write to the file meanwhile."""
    durable.make_directory(home.validation, storage=home.storage)
    copy = durable.temporary_path(home.validation / "set", storage=home.storage)
    durable.copy_open(fd, copy, storage=home.storage)
    sha256 = describe(copy, storage=home.storage).sha256
    durable.rename_durably(copy, _kept(home, sha256), storage=home.storage)
    return sha256


def _kept(home: Home, sha256: str) -> Path:
    return home.validation / f"{sha256}.jsonl"


def validation_file(home: Home, settings: JobSettings) -> Path | None:
    """The validation set that the settings name; None: they name none. Raises UserError if it is not a file."""
    if settings.data.validation is None:
        return None
    path = home.root / Path(settings.data.validation).expanduser()
    try:
        with durable.opened(home.storage, path, os.O_RDONLY):
            return path
    except PermissionError:
        return path  # the caller that reads it reports the error
    except NotAFile as error:
        raise UserError(f"the validation set {path} is not a file", ADVICE) from error
    except OSError as error:
        if error.errno in STORAGE_ERRNOS:
            raise
        raise UserError(f"there is no validation set at {path}: {error.strerror}", ADVICE) from error


def is_changed(before: JobSettings | None, now: JobSettings) -> bool:
    """True if a user changed the config. `sources` does not count: it changes by itself."""
    return before is None or replace(before, sources=Sources()) != replace(now, sources=Sources())
