"""The file of prompts that [samples] names: checked, and copied into the home under its SHA-256, next to the validation
sets.

The worker reads the copy, so that a round has the same prompts as the one before it while somebody edits the file.
"""

from __future__ import annotations

import os
from pathlib import Path

from cli.config.validation_set import keep_open
from cli.errors import STORAGE_ERRNOS, UserError
from cli.home.paths import Home
from events.samples import PROMPTS_MAX, SamplePlan, SamplesSettings
from events.settings import DataSettings
from journal import durable
from journal.storage import NotAFile

ADVICE = "correct [samples] prompts in keepstep.toml, or put the file there"

FILE_BYTES_MAX = 1 << 20
"""Largest file: 16 kB for each prompt and its answer."""


def sample_plan(home: Home, settings: SamplesSettings) -> SamplePlan:
    """What a worker needs for samples. A file that cannot be used is named in it: it must not stop the training.

    Raises OSError if the home's disk fails.
    """
    if isinstance(settings.prompts, int):
        return SamplePlan(settings=settings)
    path = prompts_file(home, settings.prompts)
    try:
        sha256 = _keep(home, path)
    except UserError as error:
        return SamplePlan(settings=settings, problem=error.reason)
    return SamplePlan(settings=settings, prompts_sha256=sha256)


def check_prompts(home: Home, settings: SamplesSettings, data: DataSettings) -> None:
    """Raise UserError if the prompts of the settings cannot be used: no file, a bad row, or too many rows."""
    if isinstance(settings.prompts, int):
        return
    path = prompts_file(home, settings.prompts)
    try:
        with durable.opened(home.storage, path, os.O_RDONLY) as fd:
            _refuse_large(path, home.storage.fstat(fd).st_size)
        _refuse_rows(path, data)
    except OSError as error:
        raise _unreadable(path, error) from error


def prompts_file(home: Home, name: str) -> Path:
    """The path of the file that [samples] prompts names."""
    return home.root / Path(name).expanduser()


def _keep(home: Home, path: Path) -> str:
    """Copy the file into the home. Returns its SHA-256. Raises UserError, OSError."""
    try:
        with durable.opened(home.storage, path, os.O_RDONLY) as fd:
            _refuse_large(path, home.storage.fstat(fd).st_size)
            return keep_open(home, fd)
    except OSError as error:
        if error.errno in STORAGE_ERRNOS or error.filename != os.fspath(path):
            raise
        raise _unreadable(path, error) from error


def _refuse_large(path: Path, size_bytes: int) -> None:
    if size_bytes > FILE_BYTES_MAX:
        raise UserError(
            f"the file of prompts {path} has {size_bytes:,} bytes; {FILE_BYTES_MAX:,} are the most",
            f"write at most {PROMPTS_MAX} rows: each is answered again and again",
        )


def _refuse_rows(path: Path, data: DataSettings) -> None:
    from gpu.data.format.example import BadRow
    from gpu.data.format.rows import read_rows
    from gpu.data.problems import Problem
    from gpu.data.read.source import with_own_format

    rows = 0
    for row in read_rows(path, with_own_format(path, data)):
        if isinstance(row, BadRow | Problem):
            problem = row.problems[0] if isinstance(row, BadRow) else row
            line = f"line {problem.line}: " if problem.line is not None else ""
            raise UserError(
                f"the file of prompts {path} cannot be used: {line}{problem.what}",
                "each row needs a prompt and an answer, as in a data file: `keepstep data check FILE` lists problems",
            )
        rows += 1
    if not 0 < rows <= PROMPTS_MAX:
        raise UserError(
            f"the file of prompts {path} has {rows:,} rows; samples take 1 to {PROMPTS_MAX}",
            "keep those that you want to read again and again",
        )


def _unreadable(path: Path, error: OSError) -> UserError:
    if isinstance(error, NotAFile):
        return UserError(f"the prompts {path} are not a file", ADVICE)
    if isinstance(error, FileNotFoundError):
        return UserError(f"there is no file of prompts at {path}", ADVICE)
    return UserError(f"the file of prompts {path} cannot be read: {error.strerror}", ADVICE)
