"""keepstep.toml: written once with comments, read strictly.

What is allowed stands on the types in `events.settings`; this module turns what is not into a sentence that names
the key, the value and what would do.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from datetime import UTC, tzinfo
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from cli.errors import UserError
from core.deadlines import Limits
from events.settings import (
    CheckpointSettings,
    CheckSettings,
    ConsolidationSettings,
    DataSettings,
    DiskSettings,
    FullSettings,
    HookSettings,
    JobSettings,
    LogSettings,
    LoraSettings,
    ModelSettings,
    NonNegative,
    Occasion,
    QloraSettings,
    RetentionSettings,
    Section,
    Severity,
    TrainingSettings,
)
from journal.durable import read_file
from journal.storage import REAL, Storage


class WorkerSettings(Section, frozen=True, kw_only=True):
    """[worker] What the daemon does about its worker; it changes nothing that is learned."""

    silence_s: Annotated[float, Meta(gt=0.0)] = 1800.0
    """A worker that proves no progress for so long is ended and tried again, whatever it is at; sooner, where it is
    known what is usual (`core/deadlines.py`)."""
    silence_times: Annotated[float, Meta(ge=2.0)] = 10.0
    """So many times what is usual is too long."""
    silence_min_s: NonNegative = 600.0
    """But never less than this: a disk, a large file, a cold cache may take ten times as long tomorrow."""
    step_silence_min_s: NonNegative = 120.0
    """The same for a step: steps are alike."""

    @property
    def limits(self) -> Limits:
        """As the deadlines have them."""
        return Limits(
            times=self.silence_times,
            step_least_s=self.step_silence_min_s,
            least_s=self.silence_min_s,
            most_s=self.silence_s,
        )


class Config(Struct, frozen=True, kw_only=True):
    """The whole file."""

    job: JobSettings
    consolidation: ConsolidationSettings = ConsolidationSettings()
    retention: RetentionSettings = RetentionSettings()
    disk: DiskSettings = DiskSettings()
    worker: WorkerSettings = WorkerSettings()
    logs: LogSettings = LogSettings()
    hooks: HookSettings = HookSettings()


OTHERS = ("consolidation", "retention", "disk", "worker", "logs", "hooks")
"""Sections that change nothing that is learned."""

METHODS: dict[str, type[Section]] = {"lora": LoraSettings, "qlora": QloraSettings, "full": FullSettings}


def load_config(path: Path, *, storage: Storage = REAL) -> Config:
    """Read and check the file. Raises UserError naming the key, the value and what is allowed."""
    try:
        document = tomllib.loads(read_file(path, storage=storage).decode())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}", "mend the file at that place") from error
    return parse_config(document, path)


def parse_config(document: dict[str, Any], path: Path) -> Config:
    """`document` as a Config; `path` is for messages."""
    method = document.get("method", {})
    kind = method.get("kind", "lora") if isinstance(method, dict) else "lora"
    if kind not in METHODS:
        raise _wrong(path, "method.kind", kind, _listed(METHODS))
    sections: dict[str, type[Section]] = {
        "model": ModelSettings,
        "method": METHODS[kind],
        "data": DataSettings,
        "checks": CheckSettings,
        "training": TrainingSettings,
        "checkpoints": CheckpointSettings,
        "consolidation": ConsolidationSettings,
        "retention": RetentionSettings,
        "disk": DiskSettings,
        "worker": WorkerSettings,
        "logs": LogSettings,
        "hooks": HookSettings,
    }
    for name in document:
        if name not in sections:
            raise UserError(f"{path}: unknown section [{name}]", f"known sections: {_listed(sections)}")
    made = {name: _section(path, name, kind, document.get(name, {})) for name, kind in sections.items()}
    config = Config(
        # each section has the type that its name stands for
        consolidation=made.pop("consolidation"),  # type: ignore[arg-type]
        retention=made.pop("retention"),  # type: ignore[arg-type]
        disk=made.pop("disk"),  # type: ignore[arg-type]
        worker=made.pop("worker"),  # type: ignore[arg-type]
        logs=made.pop("logs"),  # type: ignore[arg-type]
        hooks=made.pop("hooks"),  # type: ignore[arg-type]
        job=JobSettings(**made),  # type: ignore[arg-type]
    )
    _check_together(path, config.job, config.consolidation)
    _check_hooks(path, config.hooks)
    return config


def _section(path: Path, name: str, kind: type[Section], values: Any) -> Section:
    if not isinstance(values, dict):
        raise UserError(f"{path}: {name} must be a table", f"write [{name}] on a line of its own, keys below it")
    values = {key: value for key, value in values.items() if (name, key) != ("method", "kind")}
    hints = _hints(kind)
    for key, value in values.items():
        if key not in kind.__struct_fields__:
            raise UserError(f"{path}: unknown key {name}.{key}", f"known keys in [{name}]: {_listed(_fields(kind))}")
        try:
            values[key] = msgspec.convert(value, hints[key], str_keys=True)
        except msgspec.ValidationError as error:
            raise _wrong(path, f"{name}.{key}", value, _allowed(hints[key])) from error
    missing = [key for key in kind.__struct_fields__ if key not in values and _required(kind, key)]
    if missing:
        raise UserError(f"{path}: {name}.{missing[0]} is missing", f"[{name}] needs it: {_allowed(hints[missing[0]])}")
    return kind(**values)


@cache
def _hints(kind: type[Section]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _check_together(path: Path, job: JobSettings, consolidation: ConsolidationSettings) -> None:
    """What no single value shows."""
    if consolidation.schedule:
        zone_of(consolidation)
    if (job.data.prompt is None) != (job.data.completion is None):
        raise UserError(
            f"{path}: data.prompt and data.completion belong together, and only one of them is set",
            'set both, for example prompt = "question" and completion = "answer", or neither',
        )
    _check_rows(path, job.checks)
    if not job.checkpoints.every_steps and not job.checkpoints.every_seconds:
        raise UserError(
            f"{path}: checkpoints.every_steps and checkpoints.every_seconds are both 0",
            "a crash would cost the whole job; set at least one of them",
        )


def _check_rows(path: Path, checks: CheckSettings) -> None:
    if not checks.rows:
        return
    from gpu.data.problems import PROBLEMS

    weighed = [name for name, kind in PROBLEMS.items() if kind.level in {"refuse", "warn"}]
    for name in checks.rows:
        if name not in weighed:
            raise UserError(
                f"{path}: checks.rows has {name!r}, which is no problem of a row that could be learned from",
                f"known ones: {_listed(weighed)}",
            )


def _check_hooks(path: Path, hooks: HookSettings) -> None:
    for occasion in get_args(Occasion):
        try:
            shlex.split(getattr(hooks, f"on_{occasion}"))
        except ValueError as error:
            raise UserError(
                f"{path}: hooks.on_{occasion} is no command: {error}",
                "close its quotes; a pipe or a variable needs a shell: \"sh -c '…'\"",
            ) from error


def zone_of(settings: ConsolidationSettings) -> tzinfo:
    """The time zone of the schedule. Raises UserError."""
    if settings.timezone.upper() == "UTC":
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(settings.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UserError(
            f"consolidation.timezone = {settings.timezone!r} is no time zone that this system knows",
            'write "UTC", or a name such as "Europe/Berlin" (a system without a list of them has one after '
            "`pip install tzdata`)",
        ) from error


def _fields(kind: type[Section]) -> list[str]:
    return [*(["kind"] if kind in METHODS.values() else []), *kind.__struct_fields__]


def _required(kind: type[Section], key: str) -> bool:
    field = next(field for field in msgspec.structs.fields(kind) if field.name == key)
    return field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT


def _wrong(path: Path, key: str, value: object, allowed: str) -> UserError:
    return UserError(f"{path}: {key} = {_toml(value)} is not allowed", f"allowed: {allowed}")


def _allowed(hint: Any) -> str:
    """What a type allows, in words."""
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
    return " and ".join(parts)


def _listed(names: Any) -> str:
    return ", ".join(names)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


_COMMENTS: dict[str, str] = {
    "model.path": "a directory (relative paths start here) or a hub id; what training starts from",
    "model.dtype": 'how frozen weights are held: "float32" or "bfloat16". What is trained is float32 in every case',
    "model.trust_remote_code": "whether code that comes with a model may run; leave it off",
    "method.kind": '"lora": small trained matrices beside frozen weights; "qlora": beside 4 bits; "full": all learns',
    "method.r": "rank of the matrices",
    "method.alpha": "their product is scaled by alpha / r",
    "method.dropout": "0.0 to below 1.0",
    "method.target_modules": '"all-linear", or a list such as ["q_proj", "v_proj"]',
    "data.format": '"auto", "messages", "prompt_completion", "instruction", "sharegpt", "text", "tokens", "plain_text"',
    "data.max_length": "tokens of one example",
    "data.long": 'what becomes of a longer one: "refuse" (the file), "drop" (the row), "truncate", "split"',
    "data.bad_rows": '"refuse": one bad row refuses its file; "skip": it is left out, and written beside the report',
    "data.bad_rows_max": "with skip: a file with a larger share of bad rows is refused all the same",
    "data.replay": "rows of earlier files that are mixed into each new one, as a share of its rows",
    "data.holdout": "rows that are never trained on, as a share; the same ones in whatever file they come",
    "checks.too_long": 'each check: "refuse", "warn" or "off". Rows over max_length: refused above too_long_max',
    "checks.too_long_max": "of all rows",
    "checks.too_long_warn": "of all rows: warned of above this",
    "checks.duplicates": "rows that were there before, word for word",
    "checks.duplicates_max": "as a share of all rows; above it the check speaks. So for all below",
    "checks.near_duplicates": "rows that are nearly the same as an earlier one",
    "checks.near_duplicates_max": "as a share of all rows",
    "checks.near_duplicates_similarity": "of their five-letter pieces: 1.0 is the same",
    "checks.diversity": "different rows as a share of all, below diversity_min",
    "checks.diversity_min": "of all rows",
    "checks.contradictions": "the same prompt with another answer",
    "checks.contradictions_max": "as a share of all rows",
    "checks.learned_before": "rows of files that were accepted before",
    "checks.learned_before_max": "as a share of all rows",
    "checks.validation": "rows of the validation set, which are left out in any case",
    "checks.validation_max": "as a share of all rows",
    "data.packing": "put short examples into one sequence, each seeing only itself",
    "training.batch_size": "examples at once; one step learns batch_size × gradient_accumulation of them",
    "training.epochs": "how often each file is read",
    "training.schedule": '"constant", "linear" or "cosine", over each file',
    "training.warmup_steps": "steps in which the learning rate rises from 0",
    "training.max_grad_norm": "gradients are clipped to this norm; 0 turns clipping off",
    "training.precision": '"fp32" or "bf16" arithmetic; trained weights stay float32',
    "training.optimizer": '"carry": AdamW\'s moments go on from file to file; "reset": each file begins anew',
    "training.threads": "CPU threads; 0: one for each core. Another count rounds differently",
    "checkpoints.every_steps": "a checkpoint each N steps; 0: not by steps",
    "checkpoints.every_seconds": "a checkpoint when the last one is older; 0: not by time",
    "checkpoints.keep": "the newest N stay on disk",
    "checkpoints.keep_every_steps": "and the first one at or behind each M steps; 0: none",
    "method.use_rslora": "scale by alpha / √r instead",
    "method.use_dora": "train the length of each row by itself, too",
    "method.quant_type": '"nf4" or "fp4": what the 4 bits mean',
    "method.double_quant": "round the scales of the blocks of 4-bit weights, too",
    "consolidation.schedule": '"03:00": what was learned becomes a version then, every day; "": only when asked',
    "consolidation.timezone": 'of the schedule: "UTC", "Europe/Berlin", …',
    "consolidation.missed": '"run": a night on which no daemon ran is made up for; "skip": it is not',
    "consolidation.space_factor": "how many times the size of the model must be free on the disk",
    "retention.versions": "the newest N stay; 0: all",
    "retention.backups": "the newest N stay, however old",
    "retention.days": "other backups go when they are older",
    "disk.soft_gb": "with less free, older checkpoints and backups go at once; 0: off",
    "disk.hard_gb": "with less free, nothing is begun that might not fit, until there is room again; 0: off",
    "logs.level": '"debug", "info", "warning" or "error": the least that is written to logs/',
    "logs.days": "older files go",
    "logs.max_mb": "of all files together; the oldest go first",
    "hooks.on_job_finished": 'a command, run without a shell; what happened is JSON on its standard input. "": none',
    "hooks.on_job_rejected": "the file cannot be learned from",
    "hooks.on_job_failed": "given up; `keepstep retry` brings it back",
    "hooks.on_attempt_failed": "and is tried again, or waits",
    "hooks.on_held": "a person is needed",
    "hooks.on_disk_low": "below the limits of [disk], or full",
    "hooks.on_diverged": "a step run again did not give the same bits",
    "hooks.on_damaged": "a checkpoint was set aside",
    "hooks.on_recovered": "work goes on after any of these",
    "hooks.on_version_published": "a consolidation is done",
    "hooks.notify": '"discord://…", "mailto://…", …: needs `pip install \'keepstep[notify]\'`',
    "hooks.notify_on": "for which of these",
    "hooks.notify_template": "in Jinja2: {{ title }}, {{ message }}, {{ job_name }}, … as in the JSON",
    "hooks.timeout_s": "what runs longer is ended; training never waits for it",
    "worker.silence_s": "a worker that proves no progress for so long is ended and tried again",
    "worker.silence_times": "or for so many times what is usual for what it is at, where that is known",
    "worker.silence_min_s": "but not sooner than this",
    "worker.step_silence_min_s": "the same for a step",
}


def config_text(config: Config) -> str:
    """A commented keepstep.toml that reads back as `config`."""
    import tomlkit  # here, not above: only `init` writes, and every other command would pay for the import

    document = tomlkit.document()
    document.add(tomlkit.comment("keepstep: what is learned, from which model, and how."))
    document.add(tomlkit.comment("A file that was begun is finished under the settings that it was begun with;"))
    document.add(tomlkit.comment("a change here holds from the next file on."))
    others = {name: msgspec.to_builtins(getattr(config, name)) for name in OTHERS}
    sections = {**msgspec.to_builtins(config.job), **others}
    del sections["sources"]  # found out when a job is begun
    for name, values in sections.items():
        table = tomlkit.table()
        for key, value in values.items():
            if value is None or value == {}:
                continue
            item = tomlkit.item(value)
            if comment := _COMMENTS.get(f"{name}.{key}"):
                item.comment(comment)
            table.add(key, item)
        if name == "data" and config.job.data.prompt is None:
            table.add(tomlkit.comment('prompt = "question"      # field names, for rows of any other shape'))
            table.add(tomlkit.comment('completion = "answer"'))
        if name == "data" and config.job.data.validation is None:
            table.add(tomlkit.comment('validation = "held-out.jsonl"   # rows that are never trained on'))
        if name == "checks" and not config.job.checks.rows:
            table.add(tomlkit.comment('rows = { same_role_twice = "off" }   # single rows, by name'))
        document.add(tomlkit.nl())
        document.add(name, table)
    return re.sub(r"\n{3,}", "\n\n", tomlkit.dumps(document))
