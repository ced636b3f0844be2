"""The files of the model of the settings: its directory, its size, and what is wrong with it. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from cli.errors import UserError, error_text
from events.settings import ModelSettings


def model_directory(model: ModelSettings, home: Path) -> Path | None:
    """The directory of the model; None if it is not on this machine. Raises OSError."""
    from gpu.errors import ModelUnusable
    from gpu.model.base import base_directory

    try:
        return base_directory(model.path, home, revision=model.revision, fetch=False)
    except ModelUnusable:
        return None


def weights_bytes(model: ModelSettings, home: Path) -> int | None:
    """Bytes of the weights that transformers would load; None if they are not on this machine, or damaged."""
    from gpu.errors import ModelUnusable
    from gpu.model.base import weights_files

    try:
        directory = model_directory(model, home)
        files = weights_files(directory) if directory is not None else []
        return sum((directory / name).stat().st_size for name in files) if directory is not None and files else None
    except (OSError, ModelUnusable):
        return None  # `refuse_unusable` says what is wrong


def refuse_unusable(path: Path, *, weights: bool = True) -> None:
    """Raise UserError if `path` is not a model that can be trained and merged. `weights`: check them too."""
    from gpu.model.problems import find_problem

    try:
        problem = find_problem(path, weights=weights)
    except OSError as error:
        advice = "make it readable for you, or name a copy"
        raise UserError(f"{path} cannot be read: {error_text(error)}", advice) from error
    if problem is not None:
        raise UserError(f"{path} {problem.what}", problem.advice)
