"""Check that what keepstep.toml names can be used: the model, its layers, files and programs.

`config set`, `config check`, `config edit` and `init` ask here. Nothing is loaded or downloaded.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import msgspec

from cli.config.checks.allowed import toml_text
from cli.config.sample_prompts import check_prompts
from cli.config.schema import Config
from cli.config.validation_set import ADVICE as VALIDATION_ADVICE
from cli.config.validation_set import validation_file
from cli.errors import UserError
from cli.home.paths import Home
from events.hooks import HookSettings, HookTrigger
from events.settings import AdapterSettings, JobSettings, ReportSettings

NAMES_SHOWN = 12
"""Names of layers in a message; a model has about ten different ones."""

_PREFIXES = ("", "model.", "transformer.", "base_model.")
"""transformers puts one of these before the names in the files of some models."""


class Problem(NamedTuple):
    """Why a value cannot be used, though its type is right."""

    keys: tuple[str, ...]
    """The keys that it depends on."""
    reason: str
    advice: str


def find_problems(home: Home, config: Config) -> list[Problem]:
    """Everything in `config` that keepstep could not use. The home need not exist yet."""
    directory, found = _model(home, config.job)
    if directory is not None:
        found += _target_modules(directory, config.job)
    checks = (
        _validation(home, config.job),
        _prompts(home, config),
        _hooks(home, config.hooks),
        _reports(config.report),
    )
    return [*found, *(problem for each in checks for problem in each)]


def missing_program(home: Home, command: str) -> str | None:
    """The program of a hook if it does not exist; None if it does. Raises ValueError for quotes that do not close."""
    program = next(iter(shlex.split(command)), "")
    return program if program and shutil.which(home.root / program if "/" in program else program) is None else None


def _model(home: Home, job: JobSettings) -> tuple[Path | None, list[Problem]]:
    """The directory of the model, if it is on this machine and can be used; and why it cannot."""
    from gpu.errors import ModelUnusable
    from gpu.model.base import base_directory, is_downloaded, is_missing_directory
    from gpu.model.problems import find_problem

    path = job.model.path
    place = home.root / Path(path).expanduser()

    def problem(reason: str, advice: str) -> tuple[None, list[Problem]]:
        return None, [Problem(("model.path", "model.revision"), f"model.path = {toml_text(path)}: {reason}", advice)]

    if not place.exists() and is_missing_directory(path, home.root):
        return problem(f"there is no model at {place}", "name a directory that exists, or a hub id: organisation/name")
    try:
        if place.exists() and not place.is_dir():
            directory = place
        else:
            directory = base_directory(path, home.root, revision=job.model.revision, fetch=False)
        unusable = find_problem(directory, weights=not directory.is_dir() or is_downloaded(directory))
    except ModelUnusable:
        return None, []  # a hub id that the first job downloads
    except (OSError, msgspec.MsgspecError) as error:
        return problem(f"it cannot be read: {error}", "download the model again, or correct its permissions")
    if unusable is not None:
        return problem(f"{directory} {unusable.what}", unusable.advice)
    return directory, []


def _target_modules(directory: Path, job: JobSettings) -> Iterator[Problem]:
    """Names that no weight in the files of the model has. The worker checks the loaded model again, layer by layer."""
    targets = job.method.target_modules if isinstance(job.method, AdapterSettings) else "all-linear"
    if isinstance(targets, str) and targets.lower() == "all-linear":
        return
    layers = _layers(directory)
    if not layers:
        return
    names = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    known = f"its layers are {', '.join(names[:NAMES_SHOWN])}{', …' if len(names) > NAMES_SHOWN else ''}"
    keys = ("method.target_modules", "method.kind", "model.path", "model.revision")
    if isinstance(targets, str):
        if not any(re.fullmatch(targets, f"{prefix}{name}") for name in layers for prefix in _PREFIXES):
            yield Problem(
                keys,
                f"method.target_modules = {toml_text(targets)} is a regular expression for whole names, and no "
                f"layer of {directory} has such a name",
                f'to name layers, write a list such as ["{names[0]}"]; {known}',
            )
        return
    for target in targets:
        last = target.rpartition(".")[2]
        if last not in names and last != "lm_head":  # a head that is tied to the embedding is in no file
            near = difflib.get_close_matches(last, names, n=3, cutoff=0.5)
            yield Problem(
                keys,
                f"method.target_modules has {toml_text(target)}, and {directory} has no layer of that name",
                f"did you mean {' or '.join(near)}? {known.capitalize()}" if near else known,
            )


def _layers(directory: Path) -> list[str]:
    """The names of the layers with a matrix, from the headers of the model's files; [] if they cannot be read."""
    from gpu.artifacts.tensors import read_header
    from gpu.errors import ModelUnusable
    from gpu.model.base import weights_files

    try:
        headers = [read_header((directory / name).resolve()) for name in weights_files(directory)]
    except (ModelUnusable, ValueError, OSError):
        return []  # `keepstep doctor` and the first job say what is wrong with them
    return [
        name.removesuffix(".weight")
        for header in headers
        for name, tensor in header.items()
        if name.endswith(".weight") and len(tensor.shape) >= 2
    ]


def _validation(home: Home, job: JobSettings) -> Iterator[Problem]:
    try:
        path = validation_file(home, job)
    except UserError as error:
        yield Problem(("data.validation",), error.reason, error.advice)
        return
    if path is not None and not os.access(path, os.R_OK):
        yield Problem(("data.validation",), f"the validation set {path} cannot be read", VALIDATION_ADVICE)


def _prompts(home: Home, config: Config) -> Iterator[Problem]:
    try:
        check_prompts(home, config.samples, config.job.data)
    except UserError as error:
        yield Problem(("samples.prompts",), error.reason, error.advice)


def _hooks(home: Home, hooks: HookSettings) -> Iterator[Problem]:
    for trigger in get_args(HookTrigger):
        program = missing_program(home, getattr(hooks, f"on_{trigger}"))
        if program is not None:
            yield Problem(
                (f"hooks.on_{trigger}",),
                f"hooks.on_{trigger} cannot run: there is no program {program}",
                "correct its path (a relative one starts at the home), then `keepstep hooks test`",
            )


def _reports(report: ReportSettings) -> Iterator[Problem]:
    for name in report.to:  # a tool, its package and the extra of keepstep have the same name
        if importlib.util.find_spec(name) is None:
            yield Problem(
                ("report.to",),
                f"report.to has {toml_text(name)}, and its package is not installed",
                f"`pip install 'keepstep[{name}]'`, then run this again",
            )
