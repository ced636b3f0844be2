"""`keepstep init`: create a home."""

from __future__ import annotations

import errno
import os
import secrets
import shlex
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import typer

from cli.config.fit import fit, training_of
from cli.config.model_files import model_directory
from cli.config.pinning import ModelReference, model_location, resolve_model
from cli.config.schema import METHODS, Config, load_config
from cli.config.template import config_text
from cli.doctor.model import check_limits
from cli.errors import STORAGE_FAILED, UserError
from cli.home.event_store import EventStore
from cli.home.layout import grant_group, group_number, make_directories, open_inbox
from cli.home.paths import CONFIG_MODE, Home
from cli.machine.detect import detect_machine, local_zone
from cli.version import VERSION
from core.commands import CreateHome
from events.settings import JobSettings, ModelSettings
from gpu.model.problems import own_code
from gpu.model.size import ModelSize, read_size
from journal import durable
from journal.errors import NoSpace

UNUSABLE_PLACE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Errors of a place where no home can be. A failing disk ends with exit code 4."""


def init(directory: Path, *, model: str, method: str = "", group: str = "") -> None:
    """`keepstep init`: create a home whose settings fit the model and this machine, and say what was chosen.

    Raises UserError, OSError.
    """
    if not model:
        raise UserError("--model is missing", "name the model to train: --model DIRECTORY or --model HUB_ID")
    if method and method not in METHODS:
        raise _unknown_method(method)
    home = refuse_home(directory)
    if group:
        group_number(group)
    named = resolve_model(model)
    machine = detect_machine()
    wanted = ModelSettings(path=named.path, revision=named.revision)
    fitted = fit(wanted, _size_of(named), machine, method=method, zone=local_zone())
    existed = home.root.exists()
    try:
        home = create_home(directory, model=model, config=fitted.config, group=group, reasons=fitted.reasons)
    except (OSError, NoSpace) as error:
        if isinstance(error, NoSpace) or error.errno in {errno.ENOSPC, errno.EDQUOT}:
            advice = "free disk space, then run the same command again: it completes what is there"
            raise UserError(f"the disk is full: {home.root} is not complete", advice, STORAGE_FAILED) from error
        if error.errno not in UNUSABLE_PLACE:
            raise
        raise UserError(
            f"{home.root} cannot be created: {error.strerror}", "choose a directory on a disk where you may write"
        ) from error
    typer.echo(f"created {home.root}")
    if named.note:
        typer.echo(f"  {'model':<9} {named.note}")
    for heading, text in fitted.reasons:
        typer.echo(f"  {heading:<9} {text}")
    if named.directory is not None and own_code(named.directory):
        typer.echo(f"  {'code':<9} that of transformers; the code that comes with the model does not run")
    if existed:
        typer.echo(f"  {'access':<9} {'the group ' + group if group else 'only you'} can read the directory now")
    typer.echo(f"  {'settings':<9} keepstep.toml explains each; `keepstep config set` changes them")
    typer.echo("next:")
    for line in _next_commands(home):
        typer.echo(f"  {line}")
    for line in [*filter(None, [machine.note]), *fitted.warnings]:
        typer.echo(f"warn  {line}", err=True)
    for line in _model_warning(home):
        typer.echo(line, err=True)


def _size_of(named: ModelReference) -> ModelSize | None:
    """The size of the model; None if it is unknown."""
    if named.directory is None:
        return None
    try:
        return read_size(named.directory, weights_bytes=named.weights_bytes)
    except (OSError, ValueError):
        return None  # its limits are checked below, with a message


def _next_commands(home: Home) -> list[str]:
    enter = [] if Path.cwd() == home.root else [f"cd {shlex.quote(str(home.root))}"]
    return [
        *enter,
        "keepstep data check FILE   # what is in a data file, and what is wrong with it",
        "keepstep add FILE          # or copy it into inbox/",
        "keepstep run               # train; Ctrl-C commits and stops",
    ]


def create_home(
    directory: Path,
    *,
    model: str,
    revision: str = "",
    method: str = "lora",
    config: Config | None = None,
    group: str = "",
    reasons: Sequence[tuple[str, str]] = (),
) -> Home:
    """Create a home in `directory`. Its keepstep.toml is written last: a home that has one is complete.

    Only the caller can read it; with `group`, members of that group can read it and add files. `reasons`: comments at
    the top of keepstep.toml.

    Raises UserError if the directory is a home already, OSError.
    """
    home = refuse_home(directory)
    if method not in METHODS:
        raise _unknown_method(method)
    if config is None:
        config = Config(
            job=JobSettings(
                model=ModelSettings(path=model_location(model), revision=revision),
                method=METHODS[method](),  # type: ignore[arg-type]  # each of them is one of MethodSettings
                training=training_of(method),
            )
        )
    lay_out(home, config_text(config, reasons).encode(), group=group)
    return home


def _unknown_method(method: str) -> UserError:
    return UserError(f"unknown method {method!r}", f"choose one of {', '.join(METHODS)}")


def _model_warning(home: Home) -> list[str]:
    """Lines of `keepstep doctor` about the model of a new home; empty if it is fine or not downloaded yet."""
    job = load_config(home.config).job
    directory = model_directory(job.model, home.root)
    finding = check_limits(directory, job.data.max_length) if directory is not None else None
    return [] if finding is None else [f"{finding.level}  model: {finding.message}", f"      {finding.advice}"]


def refuse_home(directory: Path) -> Home:
    """The home that `directory` is going to be. Raises UserError if it cannot be one, OSError."""
    root = directory.expanduser().absolute()
    home = Home(root.resolve() if ".." in root.parts else root)
    root = home.root
    if home.config.exists():
        raise UserError(f"{root} is a home already", "edit its keepstep.toml, or choose another directory")
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file, and a home is a directory", "choose another name")
    for parent in root.parents:
        if Home(parent).config.exists():
            raise UserError(
                f"{root} is inside the home {parent}, where keepstep deletes unknown files",
                "choose a directory outside of it",
            )
    if not home.journal.is_dir() or not any(home.journal.glob("*.jsonl")):  # else a killed `init` made them
        _refuse_files_of_others(home)
    return home


def _refuse_files_of_others(home: Home) -> None:
    """Raise UserError if a directory that keepstep fills and cleans has files. What waits in an inbox may stay."""
    for path in (*home.directories(), home.journal):
        if path.is_relative_to(home.inbox) or path.is_symlink() or not path.is_dir():
            continue
        if any(path.iterdir()):
            raise UserError(
                f"{path} has files already, and keepstep would use it and delete files there that it does not know",
                f"choose a new directory: `keepstep init {shlex.quote(str(home.root / 'keepstep'))} …`",
            )


def lay_out(home: Home, config: bytes, *, group: str = "") -> None:
    """Create the files of a home, or complete a home whose creation was interrupted. Raises UserError, OSError."""
    storage = home.storage
    durable.make_directory(home.root, storage=storage)
    with durable.opened(storage, home.root, os.O_RDONLY | os.O_DIRECTORY) as fd:
        if not storage.try_lock(fd):
            raise UserError(f"another `keepstep init` is making {home.root}", "wait until it is done")
        if storage.exists(home.config):  # another process has just created it
            raise UserError(f"{home.root} is a home already", "edit its keepstep.toml, or choose another directory")
        try:
            storage.set_mode(fd, 0o700)
        except PermissionError as error:
            raise UserError(f"{home.root} belongs to another user", "choose a directory that belongs to you") from error
        if group:
            grant_group(home, group)
        _fill(home, config)


def _fill(home: Home, config: bytes) -> None:
    make_directories(home)
    open_inbox(home)
    if not home.storage.exists(home.journal):  # it exists after a killed init
        EventStore.create(home, CreateHome(home_id=secrets.token_hex(16), keepstep=VERSION))
    with closing(EventStore.open(home)) as store, store.exclusive():
        store.write_status()
    for name in home.storage.names(home.root):
        if name.startswith(f".{home.config.name}.") and durable.is_temporary(name):
            home.storage.unlink(home.root / name)
    durable.write_atomically(home.config, config, mode=CONFIG_MODE, sync=True, storage=home.storage)
