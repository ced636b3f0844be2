"""What a model that keepstep made says of itself: `keepstep.json`, for programs, and the model card, for people.

No torch: the shell reads it too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field

from events.messages import TrainedFile
from events.settings import FullSettings
from events.values import VersionId
from gpu.artifacts.manifest import FileEntry, Manifest, decoded, describe, leaves_directory, read_seal
from gpu.errors import VersionManifestBroken
from gpu.model.base import base_files, base_sha256, combined
from journal.durable import read_file
from journal.storage import REAL, Storage

SEAL = "keepstep.json"
"""Written last: what the model was made of, and size and SHA-256 of every file."""

TRAINED = "learned"
"""Below a version: what was learned, as it was learned, one directory for each checkpoint that was merged."""


class VersionManifest(Struct, frozen=True, kw_only=True):
    """The content of `keepstep.json`."""

    format: Literal[1] = 1
    version: VersionId | None = None
    """None: it was exported."""
    parent: VersionId | None = None
    """What the checkpoint was trained beside; None: the origin."""
    description: str = ""
    origin_sha256: str = ""
    """Of the very first base: config and weights, as in `gpu.model.base`."""
    checkpoint: Manifest
    """The last that was merged, with its lineage: data, base, tokenizer, settings."""
    trained: tuple[str, ...] = field(default=(), name="learned")
    """The directories below `learned/`, the oldest first: the weights are the origin and the sum of these."""
    data: tuple[TrainedFile, ...] = ()
    applied: float | None
    in_place: float | None = None
    files: dict[str, FileEntry]

    def encode(self) -> bytes:
        """The bytes of `keepstep.json`."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"


def read_version_manifest(directory: Path, *, storage: Storage = REAL) -> VersionManifest:
    """What the model in `directory` says of itself. Raises OSError, ValueError."""
    try:
        sealed = decoded(read_file(directory / SEAL, storage=storage), VersionManifest)
    except RecursionError as error:
        raise ValueError(f"{SEAL} is nested too deep") from error
    if (name := leaves_directory(sealed.files)) is not None:
        raise ValueError(f"{SEAL} names a file outside of its directory, {name!r}")
    return sealed


def version_directory(home: Path, version: VersionId) -> Path:
    """Where a version stands."""
    return home / "versions" / version


def trained_beside(home: Path, version: VersionId) -> Path:
    """What training loads to go on from a version: its weights, or (`full`) the float32 ones that they were rounded
    from. Raises OSError, ValueError."""
    directory = version_directory(home, version)
    sealed = read_version_manifest(directory)
    if isinstance(sealed.checkpoint.lineage.settings.method, FullSettings):
        return directory / TRAINED / sealed.trained[-1]
    return directory


def problem_of_base(version: Path, next_to: Path, watch: Callable[[bytes], None] = lambda _: None) -> str | None:
    """Why what a version is trained beside is not what was published; None if it is. Reads all of it, once.

    Raises OSError, ValueError.
    """
    sealed = read_version_manifest(version)
    place = next_to.relative_to(version).as_posix()
    prefix = "" if place == "." else f"{place}/"
    names = base_files(next_to)
    if missing := [name for name in sealed.files if name.startswith(prefix) and not (version / name).exists()]:
        return f"{missing[0]} is missing"
    published = {name: sealed.files[prefix + name].sha256 for name in names if prefix + name in sealed.files}
    if base_sha256(next_to, watch) == combined(published):
        return None
    return "its config or its weights do not have the SHA-256 that they were published with"


def problem_of(
    directory: Path,
    manifest_sha256: str,
    *,
    every_byte: bool,
    watch: Callable[[bytes], None] = lambda _: None,
    storage: Storage = REAL,
) -> str | None:
    """Why the model in `directory` is not the one that was published with this `keepstep.json`; None if it is."""
    try:
        sealed = decoded(read_seal(directory, SEAL, manifest_sha256, storage=storage), VersionManifest)
        return _problem_of_files(directory, sealed, every_byte, watch, storage)
    except VersionManifestBroken as error:
        return error.problem
    except msgspec.MsgspecError as error:
        return f"{SEAL} is damaged: {error}"


def _problem_of_files(
    directory: Path, sealed: VersionManifest, every_byte: bool, watch: Callable[[bytes], None], storage: Storage
) -> str | None:
    if (name := leaves_directory(sealed.files)) is not None:
        return f"{SEAL} names a file outside of its directory, {name!r}"
    for name, expected in sealed.files.items():
        path = directory / name
        try:
            if storage.stat(path).st_size != expected.size_bytes:
                return f"{name} has {storage.stat(path).st_size} bytes, {SEAL} says {expected.size_bytes}"
            if every_byte and describe(path, watch, storage=storage) != expected:
                return f"{name} does not have the SHA-256 of {SEAL}"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror or os.strerror(error.errno or 0)}"
    return None


def card(sealed: VersionManifest, stored_as: str) -> str:
    """The model card: https://huggingface.co/docs/hub/model-cards."""
    settings, cursor = sealed.checkpoint.lineage.settings, sealed.checkpoint.cursor
    method = msgspec.to_builtins(settings.method)
    kind, shape = method.pop("kind"), ", ".join(f"{name} = {value}" for name, value in method.items())
    title = sealed.version or sealed.checkpoint.checkpoint
    said = f"\n{sealed.description}\n" if sealed.description else ""
    at = f" at commit `{settings.model.revision}`" if settings.model.revision else ""
    return f"""---
base_model: {msgspec.json.encode(settings.model.path).decode()}
library_name: transformers
pipeline_tag: text-generation
---

# {title}
{said}
Trained by keepstep from `{settings.model.path}`{at} up to step {cursor.global_step}, and merged into weights that are
stored as {stored_as}.

- method: {kind}{f" ({shape})" if shape else ""}
- trained beside: {sealed.parent or "the origin"}
- last data file: SHA-256 `{cursor.job}`, {cursor.step} of its {cursor.steps_total} steps
- origin: SHA-256 `{sealed.origin_sha256 or sealed.checkpoint.lineage.base_sha256}`

{_table(sealed.data)}`{SEAL}` has the settings, the libraries, and the SHA-256 of every file.
"""


def _table(data: Sequence[TrainedFile]) -> str:
    if not data:
        return ""
    rows = [
        f"| {_cell(file.name)} | {file.rows} | {file.epochs} | {file.steps[0]}-{file.steps[1]} | `{file.sha256}` |"
        for file in data
    ]
    head = ["| learned from | rows | epochs | steps | SHA-256 |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows]) + "\n\n"


def _cell(text: str) -> str:
    """A file's name as Markdown shows it: whatever it holds, the table stays one."""
    return " ".join(text.replace("|", "\\|").split())
