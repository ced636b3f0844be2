"""Check keys of keepstep.toml that depend on each other, or whose values have a form that their type does not show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, tzinfo
from pathlib import Path
from typing import get_args

from cli.config.checks.allowed import listed, toml_text
from cli.errors import UserError
from events.hooks import HookSettings, HookTrigger
from events.samples import SamplesSettings
from events.settings import (
    CheckSettings,
    ConsolidationSettings,
    JobSettings,
    MemorySettings,
    ModelSettings,
)


def find_conflicts(  # each is a section
    path: Path,
    job: JobSettings,
    consolidation: ConsolidationSettings,
    hooks: HookSettings,
    memory: MemorySettings,
    samples: SamplesSettings,
) -> list[UserError]:
    """Every reason why these settings cannot be used together; [] if they can."""
    checks: list[Callable[[], object]] = [
        lambda: _check_revision(path, job.model),
        lambda: time_zone(consolidation),
        lambda: _check_rows(path, job.checks),
        lambda: _check_hooks(path, hooks),
        lambda: _check_template(path, hooks),
        lambda: _check_memory(path, memory),
        lambda: _check_targets(path, job),
        lambda: _check_pattern(path, samples),
    ]
    found = list(_job_conflicts(path, job))
    for check in checks:
        try:
            check()
        except UserError as error:
            found.append(error)
    return found


def _check_pattern(path: Path, samples: SamplesSettings) -> None:
    """Raise UserError unless the pattern is there where it is used, and a regular expression."""
    if samples.match != "regex":
        return
    if not samples.pattern:
        raise UserError(
            f'{path}: samples.match = "regex" needs samples.pattern, and it is empty',
            "set both at once: `keepstep config set samples.match=regex samples.pattern='answer: (.*)'`",
        )
    try:
        re.compile(samples.pattern)
    except re.error as error:
        raise UserError(
            f"{path}: samples.pattern = {toml_text(samples.pattern)} is not a regular expression: {error}",
            "correct it: https://docs.python.org/3/library/re.html",
        ) from error


def _replay_conflicts(path: Path, job: JobSettings) -> Iterator[UserError]:
    data, evaluation = job.data, job.evaluation
    if data.replay_max < data.replay_min:
        yield UserError(
            f"{path}: data.replay_max = {data.replay_max:g} is below replay_min = {data.replay_min:g}",
            "set both at once, for example `keepstep config set data.replay_min=0.05 data.replay_max=0.5`",
        )
    if data.replay != "auto":
        return
    if not data.holdout and data.validation is None:
        yield UserError(
            f'{path}: data.replay = "auto" follows the forgetting on held-out rows, and no rows are held out',
            "hold some out, for example `keepstep config set data.holdout=0.02`, or set a share: `keepstep config set "
            "data.replay=0.1`",
        )
    elif not evaluation.job_rows or not evaluation.files:
        yield UserError(
            f'{path}: data.replay = "auto" follows the evaluations at the end of jobs, and evaluation.job_rows or '
            "evaluation.files = 0 turns them off",
            "`keepstep config unset evaluation.job_rows evaluation.files`, or set a share: `keepstep config set "
            "data.replay=0.1`",
        )


def _job_conflicts(path: Path, job: JobSettings) -> Iterator[UserError]:
    if (job.data.prompt is None) != (job.data.completion is None):
        yield UserError(
            f"{path}: data.prompt and data.completion belong together, and only one of them is set",
            "set both at once, for example `keepstep config set data.prompt=question data.completion=answer`, or "
            "neither: `keepstep config unset data.prompt data.completion`",
        )
    if job.evaluation.gap_alert < job.evaluation.gap_warn:
        yield UserError(
            f"{path}: evaluation.gap_alert = {job.evaluation.gap_alert:g} is below gap_warn = "
            f"{job.evaluation.gap_warn:g}",
            "an alert is for the wider gap: set it to gap_warn or above. To set both at once: `keepstep config set "
            f"evaluation.gap_warn={job.evaluation.gap_warn:g} evaluation.gap_alert={job.evaluation.gap_warn + 0.2:g}`",
        )
    yield from _replay_conflicts(path, job)
    training = job.training
    if training.warmup_steps and training.warmup_ratio:
        yield UserError(
            f"{path}: training.warmup_steps = {training.warmup_steps} and training.warmup_ratio = "
            f"{training.warmup_ratio:g} are both set, and only one of them can decide the warm-up",
            "set the other one to 0, for example `keepstep config set training.warmup_steps=0 "
            f"training.warmup_ratio={training.warmup_ratio:g}`",
        )
    if training.min_learning_rate_ratio and training.schedule == "constant":
        yield UserError(
            f"{path}: training.min_learning_rate_ratio = {training.min_learning_rate_ratio:g} has no effect with "
            'training.schedule = "constant", which never falls',
            'set it to 0, or training.schedule to "cosine" or "linear"',
        )
    if not job.checkpoints.every_steps and not job.checkpoints.every_seconds:
        yield UserError(
            f"{path}: checkpoints.every_steps and checkpoints.every_seconds are both 0",
            "a crash would cost the whole job; set at least one of them. To set both at once: `keepstep config set "
            "checkpoints.every_steps=0 checkpoints.every_seconds=600`",
        )


def _check_revision(path: Path, model: ModelSettings) -> None:
    named = Path(model.path).expanduser()
    if "@" in model.path and not (path.parent / named).exists():
        raise UserError(
            f"{path}: model.path = {toml_text(model.path)} has a revision in it",
            "write the commit as model.revision; `keepstep init --model NAME@REVISION` looks it up",
        )
    if model.revision and (model.path.startswith(("/", ".", "~")) or (path.parent / named).exists()):
        raise UserError(
            f"{path}: model.revision is set, and model.path = {toml_text(model.path)} is a directory, which has none",
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
                f"known ones: {listed(weighed)}",
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


def _check_template(path: Path, hooks: HookSettings) -> None:
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if hooks.notify_template == HookSettings().notify_template:
        return
    try:
        ImmutableSandboxedEnvironment().parse(hooks.notify_template)
    except TemplateSyntaxError as error:
        raise UserError(
            f"{path}: hooks.notify_template = {toml_text(hooks.notify_template)} is not a Jinja2 template: "
            f"{error.message}",
            'write fields in double braces, for example "{{ job_name }}: {{ message }}"',
        ) from error


def _check_targets(path: Path, job: JobSettings) -> None:
    targets = getattr(job.method, "target_modules", None)
    if targets is None:
        return
    example = 'write "all-linear", or a list of names such as ["q_proj", "v_proj"]'
    if not targets or (isinstance(targets, tuple) and "" in targets):
        raise UserError(f"{path}: method.target_modules is empty, so nothing would be trained", example)
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except re.error as error:
            raise UserError(
                f"{path}: method.target_modules = {toml_text(targets)} is not a regular expression: {error}", example
            ) from error


def _check_memory(path: Path, memory: MemorySettings) -> None:
    if memory.hold_above and memory.resume_below >= memory.hold_above:
        lower = round(max(memory.hold_above - 0.1, memory.hold_above / 2), 3)
        raise UserError(
            f"{path}: memory.resume_below = {memory.resume_below:g} is not below hold_above = {memory.hold_above:g}",
            "set it about 0.1 lower: else work stops and continues with every small change of memory use. To set both "
            f"at once: `keepstep config set memory.hold_above={memory.hold_above:g} memory.resume_below={lower:g}`",
        )


def time_zone(settings: ConsolidationSettings) -> tzinfo:
    """The time zone of the schedule. Raises UserError for an unknown one."""
    if settings.timezone.upper() == "UTC":
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

    try:
        return ZoneInfo(settings.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        near = sorted(name for name in available_timezones() if name.lower().endswith(settings.timezone.lower()))
        meant = f"did you mean {toml_text(near[0])}? Else " if near and settings.timezone else ""
        raise UserError(
            f"consolidation.timezone = {toml_text(settings.timezone)} is not a time zone that this system knows",
            f'{meant}write "UTC", or a name such as "Europe/Berlin" (`pip install tzdata` adds the list to a system '
            "that has none)",
        ) from error
