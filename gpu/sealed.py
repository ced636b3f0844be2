"""What a model that keepstep made says of itself: `keepstep.json`, for programs, and the model card, for people.

No torch: the shell reads it too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec
from msgspec import Struct

from events.settings import FullSettings
from events.values import VersionId
from events.worker import LearnedFile
from gpu.base import base_files, base_sha256, combined
from gpu.errors import SealBroken
from gpu.manifest import UNDECODABLE, FileEntry, Manifest, describe, leads_out, read_seal
from journal.durable import read_file
from journal.storage import REAL, Storage

SEAL = "keepstep.json"
"""Written last: what the model was made of, and size and SHA-256 of every file."""

LEARNED = "learned"
"""Below a version: what was learned, as it was learned, one directory for each checkpoint that was merged."""


class Sealed(Struct, frozen=True, kw_only=True):
    """The content of `keepstep.json`."""

    format: Literal[1] = 1
    version: VersionId | None = None
    """None: it was exported."""
    parent: VersionId | None = None
    """What the checkpoint was trained beside; None: the origin."""
    description: str = ""
    origin_sha256: str = ""
    """Of the very first base: config and weights, as in `gpu.base`."""
    checkpoint: Manifest
    """The last that was merged, with its lineage: data, base, tokenizer, settings."""
    learned: tuple[str, ...] = ()
    """The directories below `learned/`, the oldest first: the weights are the origin and the sum of these."""
    data: tuple[LearnedFile, ...] = ()
    applied: float | None
    in_place: float | None = None
    files: dict[str, FileEntry]

    def encode(self) -> bytes:
        """The bytes of `keepstep.json`."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"


_decoder = msgspec.json.Decoder(Sealed)


def read_sealed(directory: Path, *, storage: Storage = REAL) -> Sealed:
    """What the model in `directory` says of itself. Raises OSError, ValueError."""
    try:
        sealed = _decoder.decode(read_file(directory / SEAL, storage=storage))
    except RecursionError as error:
        raise ValueError(f"{SEAL} is nested too deep") from error
    if (name := leads_out((*sealed.files, *sealed.learned))) is not None:
        raise ValueError(f"{SEAL} names a file outside of its directory, {name!r}")
    return sealed


def version_directory(home: Path, version: VersionId) -> Path:
    """Where a version stands."""
    return home / "versions" / version


def trained_beside(home: Path, version: VersionId) -> Path:
    """What training loads to go on from a version: its weights, or (`full`) the float32 ones that they were rounded
    from. Raises OSError, ValueError."""
    directory = version_directory(home, version)
    sealed = read_sealed(directory)
    if isinstance(sealed.checkpoint.lineage.settings.method, FullSettings):
        return directory / LEARNED / sealed.learned[-1]
    return directory


def problem_of_base(version: Path, beside: Path, watch: Callable[[bytes], None] = lambda _: None) -> str | None:
    """Why what a version is trained beside is not what was published; None if it is. Reads all of it, once.

    Raises OSError, ValueError.
    """
    sealed = read_sealed(version)
    place = beside.relative_to(version).as_posix()
    prefix = "" if place == "." else f"{place}/"
    names = base_files(beside)
    if missing := [name for name in sealed.files if name.startswith(prefix) and not (version / name).exists()]:
        return f"{missing[0]} is missing"
    published = {name: sealed.files[prefix + name].sha256 for name in names if prefix + name in sealed.files}
    if base_sha256(beside, watch) == combined(published):
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
        sealed = _decoder.decode(read_seal(directory, SEAL, manifest_sha256, storage=storage))
        return _problem_of_files(directory, sealed, every_byte, watch, storage)
    except SealBroken as error:
        return error.problem
    except UNDECODABLE as error:
        return f"{SEAL} is damaged: {error}"


def _problem_of_files(
    directory: Path, sealed: Sealed, every_byte: bool, watch: Callable[[bytes], None], storage: Storage
) -> str | None:
    if (name := leads_out((*sealed.files, *sealed.learned))) is not None:
        return f"{SEAL} names a file outside of its directory, {name!r}"
    for name, expected in sealed.files.items():
        path = directory / name
        try:
            if (link := _link_above(directory, name, storage)) is not None:
                return f"{link} is not a directory"
            found = storage.stat(path)
            if not stat.S_ISREG(found.st_mode):
                return f"{name} is not a file"
            if found.st_size != expected.size_bytes:
                return f"{name} has {found.st_size} bytes, {SEAL} says {expected.size_bytes}"
            if every_byte and describe(path, watch, storage=storage) != expected:
                return f"{name} does not have the SHA-256 of {SEAL}"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror or os.strerror(error.errno or 0)}"
    return None


def _link_above(directory: Path, name: str, storage: Storage) -> str | None:
    """The first part of the way to `name` that is no directory, and could lead out of `directory`; None: there is none.

    Raises OSError.
    """
    above = [str(parent) for parent in reversed(PurePosixPath(name).parents[:-1])]
    return next((part for part in above if not stat.S_ISDIR(storage.stat(directory / part).st_mode)), None)


def card(sealed: Sealed, stored_as: str) -> str:
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


def _table(data: Sequence[LearnedFile]) -> str:
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
