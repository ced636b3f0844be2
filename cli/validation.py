"""The validation set that the config names: kept in the home under its own hash, so that it can be had again as it was.

What it holds decides which rows are learned. So an attempt is journaled with its SHA-256, and a step that is run again
years later leaves out what it left out the first time, whatever became of the file.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec.structs import replace

from cli.arrivals import file_sha256
from cli.errors import STORAGE_ERRNOS, UserError
from cli.home import Home
from events.settings import JobSettings, Sources
from gpu.manifest import describe_open
from journal import durable
from journal.storage import NotAFile

ADVICE = "correct [data] validation in keepstep.toml, or put the file there"


def with_validation_kept(home: Home, settings: JobSettings) -> JobSettings:
    """The settings with the SHA-256 of the set that they name, which is then in the home. Raises UserError, OSError."""
    path = validation_file(home, settings)
    if path is None:
        return settings
    try:
        with durable.opened(home.storage, path, os.O_RDONLY) as fd:
            sha256 = describe_open(fd, storage=home.storage).sha256
            if not home.storage.exists(_kept(home, sha256)):
                sha256 = _keep(home, fd)
    except OSError as error:
        if error.errno in STORAGE_ERRNOS or error.filename != os.fspath(path):
            raise
        raise UserError(f"the validation set {path} cannot be read: {error.strerror}", ADVICE) from error
    return replace(settings, sources=Sources(validation_sha256=sha256))


def _keep(home: Home, fd: int) -> str:
    """Copy the open set; the SHA-256 of the copy. Somebody may write into the file meanwhile."""
    durable.make_directory(home.validation, storage=home.storage)
    copy = durable.temporary_path(home.validation / "set", storage=home.storage)
    durable.copy_open(fd, copy, storage=home.storage)
    sha256 = file_sha256(copy, storage=home.storage)
    durable.rename_durably(copy, _kept(home, sha256), storage=home.storage)
    return sha256


def _kept(home: Home, sha256: str) -> Path:
    return home.validation / f"{sha256}.jsonl"


def validation_file(home: Home, settings: JobSettings) -> Path | None:
    """The file that the settings name; None if they name none. Raises UserError if it is not there, or no file."""
    if settings.data.validation is None:
        return None
    path = home.root / Path(settings.data.validation).expanduser()
    try:
        with durable.opened(home.storage, path, os.O_RDONLY):
            return path
    except PermissionError:
        return path  # whoever reads it says so
    except NotAFile as error:
        raise UserError(f"the validation set {path} is not a file", ADVICE) from error
    except OSError as error:
        if error.errno in STORAGE_ERRNOS:
            raise
        raise UserError(f"there is no validation set at {path}: {error.strerror}", ADVICE) from error


def is_changed(before: JobSettings | None, now: JobSettings) -> bool:
    """Whether a person changed the config; the earlier files that rows are mixed in from change by themselves."""
    return before is None or replace(before, sources=Sources()) != replace(now, sources=Sources())
