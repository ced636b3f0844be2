"""The schema of keepstep.toml, and strict parsing.

The types in `events.settings` say which values are allowed. This module turns an error into a message that names the
key, the value and the allowed values.
"""

from __future__ import annotations

import math
import os
import stat
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from cli.config.checks.allowed import allowed, listed, toml_text, wrong
from cli.config.checks.other_names import find_meant, find_meant_section
from cli.config.checks.together import find_conflicts
from cli.config.renamed import with_present_names
from cli.errors import UserError
from cli.home.trust import open_to_all, refuse_owner, resolve_link
from core.deadlines import Limits
from events.hooks import HookSettings
from events.samples import SamplesSettings
from events.settings import (
    ConsolidationSettings,
    DiskSettings,
    FullSettings,
    InboxSettings,
    JobSettings,
    LogSettings,
    LoraSettings,
    MemorySettings,
    NonNegative,
    QloraSettings,
    ReportSettings,
    RetentionSettings,
    Section,
    VersionSettings,
)
from journal.durable import opened
from journal.storage import REAL, Storage


class WorkerSettings(Section, frozen=True, kw_only=True):
    """[worker] How the daemon watches its worker. It does not change what is trained."""

    silence_s: Annotated[float, Meta(gt=0.0)] = 1800.0
    """A worker without progress for this long is ended and tried again. Where the usual duration is known, the limit is
    lower (`core/deadlines.py`)."""
    silence_times: Annotated[float, Meta(ge=2.0)] = 10.0
    """The limit as a multiple of the usual duration."""
    silence_min_s: NonNegative = 600.0
    """The lowest limit: a slow disk, a large file or a cold cache may take ten times the usual duration."""
    step_silence_min_s: NonNegative = 120.0
    """The lowest limit for a step; lower, because steps take about the same time."""

    @property
    def limits(self) -> Limits:
        """The same limits for `core.deadlines`."""
        return Limits(
            times=self.silence_times,
            step_least_s=self.step_silence_min_s,
            least_s=self.silence_min_s,
            most_s=self.silence_s,
        )


class Config(Struct, frozen=True, kw_only=True):
    """keepstep.toml as a whole."""

    job: JobSettings
    consolidation: ConsolidationSettings = ConsolidationSettings()
    versions: VersionSettings = VersionSettings()
    retention: RetentionSettings = RetentionSettings()
    disk: DiskSettings = DiskSettings()
    memory: MemorySettings = MemorySettings()
    worker: WorkerSettings = WorkerSettings()
    inbox: InboxSettings = InboxSettings()
    samples: SamplesSettings = SamplesSettings()
    logs: LogSettings = LogSettings()
    hooks: HookSettings = HookSettings()
    report: ReportSettings = ReportSettings()
    old_names: tuple[str, ...] = ()
    """A line for each old name of a key that the file has."""


CONFIG_BYTES_MAX = 1 << 20
"""A hundred times what `keepstep init` writes."""

INFINITE_ALLOWED = ("retention", "worker")
"""The sections in which a number may be `inf`. The others end up in JSON, which has no infinity, or in system calls."""

DAEMON_SECTIONS = tuple(name for name in Config.__struct_fields__ if name not in ("job", "old_names"))
"""Sections that do not change what is trained: the daemon applies them at once."""

METHODS: dict[str, type[Section]] = {"lora": LoraSettings, "qlora": QloraSettings, "full": FullSettings}


def read_config(path: Path, *, storage: Storage = REAL) -> bytes:
    """The bytes of the file, if its owner is trusted (`cli.home.trust`). Raises UserError, OSError."""
    with opened(storage, resolve_config(path, storage=storage), os.O_RDONLY) as fd:
        found = storage.fstat(fd)
        refuse_owner(path, found.st_uid, path.parent)
        if found.st_mode & stat.S_IWOTH:
            raise open_to_all(path, path.parent)
        if found.st_size > CONFIG_BYTES_MAX:
            raise UserError(f"{path} has {found.st_size:,} bytes, too many for a config", "put the right file there")
        return storage.read(fd, CONFIG_BYTES_MAX, 0)


def resolve_config(path: Path, *, storage: Storage = REAL) -> Path:
    """The file that `keepstep.toml` links to, if its owner made the link; else `path` itself. Raises OSError."""
    return resolve_link(path) if stat.S_ISLNK(storage.stat(path).st_mode) else path


def load_config(path: Path, *, storage: Storage = REAL) -> Config:
    """Read and check the file. Raises UserError naming the key, the value and what is allowed."""
    try:
        document = tomllib.loads(read_config(path, storage=storage).decode())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}", "fix the file at that place") from error
    return parse_config(document, path)


def parse_config(document: dict[str, Any], path: Path) -> Config:
    """`document` as a Config; `path` is for messages. Raises UserError: the first of `read_document`."""
    config, errors = read_document(document, path)
    if config is None:
        raise errors[0]
    return config


def read_document(document: dict[str, Any], path: Path) -> tuple[Config | None, list[UserError]]:
    """`document` as a Config, or every reason why it is none."""
    try:
        document, old_names = with_present_names(document, path)
        kind = _method_kind(document, path)
    except UserError as error:
        return None, [error]
    sections: dict[str, type[Section]] = {**fields_of(JobSettings), **fields_of(Config), "method": METHODS[kind]}
    for name in ("sources", "job", "old_names"):  # not sections that a user writes
        del sections[name]
    errors = [_unknown_section(path, name, document[name], sections) for name in document if name not in sections]
    # Any: each section has the type that its name stands for
    made: dict[str, Any] = {}
    for name, section in sections.items():
        try:
            made[name] = _section(path, name, section, document.get(name, {}))
        except* UserError as group:
            errors += [error for error in group.exceptions if isinstance(error, UserError)]
    if errors:
        return None, errors
    others = {name: made.pop(name) for name in DAEMON_SECTIONS}
    config = Config(job=JobSettings(**made), **others, old_names=old_names)
    errors = find_conflicts(path, config.job, config.consolidation, config.hooks, config.memory, config.samples)
    return (None if errors else config), errors


def hint_of(key: str, kind: str) -> Any:
    """The type of `section.name` for this [method] kind; None for an unknown key."""
    section, _, name = key.partition(".")
    sections = {**fields_of(JobSettings), **fields_of(Config), "method": METHODS.get(kind, LoraSettings)}
    if (section, name) == ("method", "kind"):
        return str
    struct = None if section in ("sources", "job", "old_names") else sections.get(section)
    return None if struct is None else fields_of(struct).get(name)


def _method_kind(document: dict[str, Any], path: Path) -> str:
    method = document.get("method", {})
    kind = method.get("kind", "lora") if isinstance(method, dict) else "lora"
    if not isinstance(kind, str) or kind not in METHODS:
        raise wrong(path, "method.kind", kind, listed(METHODS))
    return kind


def _unknown_section(path: Path, name: str, value: Any, sections: dict[str, type[Section]]) -> UserError:
    known = f"Known sections: {listed(sections)}"
    if not isinstance(value, dict):
        found = find_meant("", name)
        return UserError(
            f"{path}: {name} is not in a section", found or f"write it below the [section] that it belongs to. {known}"
        )
    found = find_meant_section(name, value)
    return UserError(f"{path}: unknown section [{name}]", " ".join(filter(None, (found, known))))


def _section(path: Path, name: str, kind: type[Section], values: Any) -> Section:
    """The section. Raises ExceptionGroup of UserError."""
    if not isinstance(values, dict):
        error = UserError(f"{path}: {name} must be a table", f"write [{name}] on its own line, with its keys below")
        raise ExceptionGroup(name, [error])
    values = {key: value for key, value in values.items() if (name, key) != ("method", "kind")}
    hints, errors = fields_of(kind), list[UserError]()
    for key, value in values.items():
        if key not in kind.__struct_fields__:
            errors.append(_unknown_key(path, name, key, kind))
            continue
        if value == "" and type(None) in get_args(hints[key]):
            values[key] = None  # a text that may be missing: "" says the same
            continue
        try:
            values[key] = msgspec.convert(value, hints[key], str_keys=True)
        except msgspec.ValidationError:
            errors.append(wrong(path, f"{name}.{key}", value, allowed(hints[key])))
            continue
        if values[key] == math.inf and name not in INFINITE_ALLOWED:
            errors.append(
                wrong(path, f"{name}.{key}", value, f"{allowed(hints[key])}, but finite: a large one will do")
            )
    missing = [key for key in kind.__struct_fields__ if key not in values and _required(kind, key)]
    errors += [
        UserError(f"{path}: {name}.{key} is missing", f"[{name}] needs it: {allowed(hints[key])}") for key in missing
    ]
    if errors:
        raise ExceptionGroup(name, errors)
    return kind(**values)


def _unknown_key(path: Path, section: str, key: str, kind: type[Section]) -> UserError:
    known = f"known keys in [{section}]: {listed(_fields(kind))}"
    if section == "method":
        others = [name for name, other in METHODS.items() if key in other.__struct_fields__]
        if others:
            return UserError(
                f"{path}: method.{key} is not available with kind = {toml_text(_kind_name(kind))}",
                f"it belongs to {' and '.join(f'kind = {toml_text(name)}' for name in others)}: remove the line, or "
                f"set another kind; {known}",
            )
    found = find_meant(section, key)
    return UserError(f"{path}: unknown key {section}.{key}", found or known)


def _kind_name(kind: type[Section]) -> str:
    return next(name for name, each in METHODS.items() if each is kind)


@cache
def fields_of(kind: type[Struct]) -> dict[str, Any]:
    """The fields of a struct with their types."""
    return get_type_hints(kind, include_extras=True)


def _fields(kind: type[Section]) -> list[str]:
    return [*(["kind"] if kind in METHODS.values() else []), *kind.__struct_fields__]


@cache
def _required(kind: type[Section], key: str) -> bool:
    field = next(field for field in msgspec.structs.fields(kind) if field.name == key)
    return field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT
