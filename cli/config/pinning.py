"""Pin hub ids to commits: `init` resolves the commit, and other commands say how to pin a home without one.

A hub id names the latest upload of its owner. Weights that are trained on one upload mean nothing on the next, so a
home keeps the commit: `[model] revision`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cli.config.model_files import refuse_unusable
from cli.errors import UserError
from cli.home.paths import Home
from events.text import visible

if TYPE_CHECKING:
    from gpu.model.hub import CommitNotFound


class ModelReference(NamedTuple):
    """A model as the user named it, with its commit."""

    path: str
    """An absolute directory, or a hub id."""
    revision: str = ""
    """The commit of a hub id; "" for a directory."""
    note: str = ""
    """A message for the user; "": none."""
    directory: Path | None = None
    """The directory of its config and tokenizer on this machine; None if they are not there yet."""
    weights_bytes: int = 0
    """Size of the weights on the hub, if they are not downloaded yet; 0: unknown."""


def resolve_model(model: str, *, tokenizer_only: bool = False) -> ModelReference:
    """Resolve the model that the command line names; a hub id gets the commit that it means now.

    A hub id may carry a branch, a tag or a commit: `organisation/name@revision`. Raises UserError, also if the files of
    the model show that it cannot be trained. `tokenizer_only`: nothing is trained, so the rest is not checked.
    """
    from gpu.model import hub
    from gpu.model.base import is_downloaded

    path, at, revision = (model, "", "") if Path(model).expanduser().exists() else model.partition("@")
    location = model_location(path, tokenizer_only=tokenizer_only)
    if location != path or Path(location).is_absolute():
        if at:
            raise UserError(f"{path} is a directory, and a directory has no revisions", f"leave out @{revision}")
        return ModelReference(location, directory=Path(location))
    if at and not revision:
        raise UserError(f"{model} names no revision", f"write one, as in {path}@main, or leave out the @")
    try:
        commit = hub.resolve(path, revision)
    except hub.CommitNotFound as error:
        raise UserError(
            f"{model} is not a model that can be found here: {error.reason}", _how_to_find(path, error)
        ) from error
    directory, problem = _small_files(path, commit)
    if directory is not None and not problem and not tokenizer_only:
        refuse_unusable(directory, weights=False)
    note = f"{path} is pinned to commit {commit}; later uploads do not change this home{problem}"
    size = None
    if directory is not None and not tokenizer_only and not is_downloaded(directory):
        size = hub.weights_bytes(path, commit)
        if size == 0:
            raise UserError(
                f"{path} has no weights as safetensors on the hub, and keepstep loads nothing else",
                f"look for another upload of it: {hub.page_of(path)} lists its files and its relatives",
            )
    return ModelReference(path, commit, note, directory, size or 0)


def _how_to_find(path: str, error: CommitNotFound) -> str:
    from gpu.model import hub

    if error.is_wrong:
        return "name a directory that exists, or a hub id that exists, such as HuggingFaceTB/SmolLM2-135M-Instruct"
    connect = "unset HF_HUB_OFFLINE, connect" if hub.is_offline() else "check its name, connect"
    return (
        f"a directory {Path(path).absolute()} does not exist. For a hub id: {connect} and try again. Without the "
        f"hub, name a commit of 40 digits: `--model {path}@COMMIT`; the first job then downloads it"
    )


def _small_files(path: str, commit: str) -> tuple[Path | None, str]:
    """The snapshot of a hub id with its config and its tokenizer, downloaded if possible, and why they are not here.

    Raises UserError if the hub refuses them.
    """
    from gpu.errors import ModelUnusable
    from gpu.model import hub
    from gpu.model.files import CONFIG

    found = hub.snapshot(path, commit)
    if found is not None and (found / CONFIG).exists():
        return found, ""
    if hub.is_offline():
        return found, "; it is not downloaded yet, so keepstep has not checked it"
    try:
        return hub.fetch(path, commit, weights=False), ""
    except hub.AccessRefused as error:
        raise UserError(str(error), f"accept its terms at {hub.page_of(path)}, then `hf auth login`") from error
    except (ModelUnusable, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        return found, f"; keepstep has not checked it, and the first job downloads it ({reason})"


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


def model_location(model: str, *, tokenizer_only: bool = False) -> str:
    """The absolute path of a directory, or a hub id unchanged. Raises UserError as `resolve_model`."""
    from gpu.model.base import is_missing_directory

    path = Path(model).expanduser()
    named = str(path.absolute()) if path.exists() else model
    if visible(named) != named:
        raise UserError(
            f"keepstep.toml is UTF-8 and cannot hold the path of the model, {named}",
            "name it by a link whose path is UTF-8, or put it into the home and set [model] path there",
        )
    if path.exists():
        if not tokenizer_only:
            refuse_unusable(path.absolute())
        return named
    if is_missing_directory(model, Path.cwd()):
        raise UserError(
            f"there is no model directory at {path.absolute()}, and {model} is not a hub id",
            "name a directory that exists, or a hub id such as organisation/name",
        )
    return model
