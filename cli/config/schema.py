"""The schema of keepstep.toml, and strict parsing.

The types in `events.settings` say which values are allowed. This module turns an error into a message that names the
key, the value and the allowed values.
"""

from __future__ import annotations

import math
import os
import shlex
import stat
import tomllib
from datetime import UTC, tzinfo
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from cli.config.renamed import with_present_names
from cli.errors import UserError
from cli.home.trust import open_to_all, refuse_owner, resolve_link
from core.deadlines import Limits
from events.settings import (
    CheckSettings,
    ConsolidationSettings,
    DiskSettings,
    FullSettings,
    HookSettings,
    HookTrigger,
    InboxSettings,
    JobSettings,
    LogSettings,
    LoraSettings,
    MemorySettings,
    ModelSettings,
    NonNegative,
    QloraSettings,
    RetentionSettings,
    Section,
    Severity,
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
    retention: RetentionSettings = RetentionSettings()
    disk: DiskSettings = DiskSettings()
    memory: MemorySettings = MemorySettings()
    worker: WorkerSettings = WorkerSettings()
    inbox: InboxSettings = InboxSettings()
    logs: LogSettings = LogSettings()
    hooks: HookSettings = HookSettings()
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
    """`document` as a Config; `path` is for messages."""
    document, old_names = with_present_names(document, path)
    method = document.get("method", {})
    kind = method.get("kind", "lora") if isinstance(method, dict) else "lora"
    if not isinstance(kind, str) or kind not in METHODS:
        raise _wrong(path, "method.kind", kind, _listed(METHODS))
    sections: dict[str, type[Section]] = {**_hints(JobSettings), **_hints(Config), "method": METHODS[kind]}
    for name in ("sources", "job", "old_names"):  # not sections that a user writes
        del sections[name]
    for name in document:
        if name not in sections:
            raise UserError(f"{path}: unknown section [{name}]", f"known sections: {_listed(sections)}")
    # Any: each section has the type that its name stands for
    made: dict[str, Any] = {name: _section(path, name, kind, document.get(name, {})) for name, kind in sections.items()}
    others = {name: made.pop(name) for name in DAEMON_SECTIONS}
    config = Config(job=JobSettings(**made), **others, old_names=old_names)
    _check_together(path, config.job, config.consolidation)
    _check_hooks(path, config.hooks)
    _check_memory(path, config.memory)
    return config


def _section(path: Path, name: str, kind: type[Section], values: Any) -> Section:
    if not isinstance(values, dict):
        raise UserError(f"{path}: {name} must be a table", f"write [{name}] on its own line, with its keys below")
    values = {key: value for key, value in values.items() if (name, key) != ("method", "kind")}
    hints = _hints(kind)
    for key, value in values.items():
        if key not in kind.__struct_fields__:
            raise UserError(f"{path}: unknown key {name}.{key}", f"known keys in [{name}]: {_listed(_fields(kind))}")
        try:
            values[key] = msgspec.convert(value, hints[key], str_keys=True)
        except msgspec.ValidationError as error:
            raise _wrong(path, f"{name}.{key}", value, _allowed(hints[key])) from error
        if values[key] == math.inf and name not in INFINITE_ALLOWED:
            raise _wrong(path, f"{name}.{key}", value, f"{_allowed(hints[key])}, but finite: a large one will do")
    missing = [key for key in kind.__struct_fields__ if key not in values and _required(kind, key)]
    if missing:
        raise UserError(f"{path}: {name}.{missing[0]} is missing", f"[{name}] needs it: {_allowed(hints[missing[0]])}")
    return kind(**values)


@cache
def _hints(kind: type[Struct]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _check_together(path: Path, job: JobSettings, consolidation: ConsolidationSettings) -> None:
    """Check settings that depend on each other. Raises UserError."""
    _check_revision(path, job.model)
    if consolidation.schedule:
        time_zone(consolidation)
    if (job.data.prompt is None) != (job.data.completion is None):
        raise UserError(
            f"{path}: data.prompt and data.completion belong together, and only one of them is set",
            'set both, for example prompt = "question" and completion = "answer", or neither',
        )
    _check_rows(path, job.checks)
    if job.evaluation.gap_alert < job.evaluation.gap_warn:
        raise UserError(
            f"{path}: evaluation.gap_alert = {job.evaluation.gap_alert:g} is below gap_warn = "
            f"{job.evaluation.gap_warn:g}",
            "an alert is for the wider gap: set it to gap_warn or above",
        )
    if not job.checkpoints.every_steps and not job.checkpoints.every_seconds:
        raise UserError(
            f"{path}: checkpoints.every_steps and checkpoints.every_seconds are both 0",
            "a crash would cost the whole job; set at least one of them",
        )


def _check_revision(path: Path, model: ModelSettings) -> None:
    named = Path(model.path).expanduser()
    if "@" in model.path and not (path.parent / named).exists():
        raise UserError(
            f"{path}: model.path = {_toml(model.path)} has a revision in it",
            "write the commit as model.revision; `keepstep init --model NAME@REVISION` looks it up",
        )
    if model.revision and (model.path.startswith(("/", ".", "~")) or (path.parent / named).exists()):
        raise UserError(
            f"{path}: model.revision is set, and model.path = {_toml(model.path)} is a directory, which has none",
            "remove model.revision, or name a hub id in model.path",
        )


def _check_rows(path: Path, checks: CheckSettings) -> None:
    if not checks.rows:
        return
    from gpu.data.problems import PROBLEMS

    weighed = [name for name, kind in PROBLEMS.items() if kind.level in {"refuse", "warn"}]
    for name in checks.rows:
        if name not in weighed:
            raise UserError(
                f"{path}: checks.rows has {name!r}, which is not a finding of the row checks",
                f"known ones: {_listed(weighed)}",
            )


def _check_hooks(path: Path, hooks: HookSettings) -> None:
    for trigger in get_args(HookTrigger):
        try:
            shlex.split(getattr(hooks, f"on_{trigger}"))
        except ValueError as error:
            raise UserError(
                f"{path}: hooks.on_{trigger} is not a valid command: {error}",
                "close its quotes; a pipe or a variable needs a shell: \"sh -c '…'\"",
            ) from error


def _check_memory(path: Path, memory: MemorySettings) -> None:
    if memory.hold_above and memory.resume_below >= memory.hold_above:
        raise UserError(
            f"{path}: memory.resume_below = {memory.resume_below:g} is not below hold_above = {memory.hold_above:g}",
            "set it about 0.1 lower: else work stops and continues with every small change of memory use",
        )


def time_zone(settings: ConsolidationSettings) -> tzinfo:
    """The time zone of the schedule. Raises UserError for an unknown one."""
    if settings.timezone.upper() == "UTC":
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(settings.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UserError(
            f"consolidation.timezone = {settings.timezone!r} is not a time zone that this system knows",
            'write "UTC", or a name such as "Europe/Berlin" (`pip install tzdata` adds the list to a system '
            "that has none)",
        ) from error


def _fields(kind: type[Section]) -> list[str]:
    return [*(["kind"] if kind in METHODS.values() else []), *kind.__struct_fields__]


@cache
def _required(kind: type[Section], key: str) -> bool:
    field = next(field for field in msgspec.structs.fields(kind) if field.name == key)
    return field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT


def _wrong(path: Path, key: str, value: object, allowed: str) -> UserError:
    return UserError(f"{path}: {key} = {_toml(value)} is not allowed", f"allowed: {allowed}")


def _allowed(hint: Any) -> str:
    """The values that a type allows, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _listed(_toml(argument) for argument in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_allowed(argument) for argument in arguments if argument is not type(None))
    if origin is tuple:
        return f"a list, each item {_allowed(arguments[0])}"
    if hasattr(hint, "__metadata__"):
        bounds = [_bound(meta) for meta in hint.__metadata__ if isinstance(meta, Meta)]
        return " ".join([_allowed(hint.__origin__), *filter(None, bounds)])
    return _WORDS.get(hint, str(hint))


_WORDS: dict[object, str] = {
    dict[str, Severity]: 'names, each with "refuse", "warn" or "off"',
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
}


def _bound(meta: Meta) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    parts = [f"{word} {getattr(meta, name)}" for name, word in words.items() if getattr(meta, name) is not None]
    if meta.min_length:
        parts.append("that is not empty")
    if meta.pattern:
        parts.append(_PATTERNS[meta.pattern])
    return " and ".join(parts)


_PATTERNS = {
    "^(([01][0-9]|2[0-3]):[0-5][0-9])?$": 'with a time such as "03:00", or nothing',
    "^([0-9a-f]{40})?$": "with a commit: its 40 hexadecimal digits (`keepstep init --model NAME@BRANCH` looks it up)",
}
"""The regular expressions of `events.settings`, in words."""


def _listed(names: Any) -> str:
    return ", ".join(names)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
