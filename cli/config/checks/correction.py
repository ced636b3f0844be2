"""Check that [self_correction] can work with the other settings: its verifier, and the files that it makes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from cli.config.checks.allowed import toml_text
from cli.errors import UserError
from events.self_correction import SelfCorrectionSettings
from events.settings import JobSettings

EXAMPLE = "for example `keepstep config set self_correction.command='python3 ./evaluation/check.py'`"


def correction_conflicts(path: Path, job: JobSettings, settings: SelfCorrectionSettings) -> Iterator[UserError]:
    """Every reason why self-correction cannot work as configured; none if it is off."""
    if settings.kind == "off":
        return
    yield from _verifier(path, settings)
    if job.data.prompt is not None or job.data.format not in {"auto", "messages"}:
        found = "data.prompt is set" if job.data.prompt is not None else f"data.format = {toml_text(job.data.format)}"
        yield UserError(
            f"{path}: self_correction.kind = {toml_text(settings.kind)} makes files of messages, and {found} would "
            "refuse them",
            "let each file have its own format: `keepstep config set data.format=auto`, and `keepstep config unset "
            "data.prompt data.completion`",
        )
    checks = [("trained_before", settings.gold_share > 0), ("contradictions", settings.kind == "rejection")]
    for name, applies in checks:
        if applies and getattr(job.checks, name) == "refuse":
            yield UserError(
                f'{path}: checks.{name} = "refuse" would refuse the files of self-correction: they repeat prompts of '
                "trained files",
                f"warn instead: `keepstep config set checks.{name}=warn`",
            )


def _verifier(path: Path, settings: SelfCorrectionSettings) -> Iterator[UserError]:
    if settings.match == "regex":
        if not settings.pattern:
            yield UserError(
                f'{path}: self_correction.match = "regex" needs self_correction.pattern, and it is empty',
                "set both at once: `keepstep config set self_correction.match=regex "
                "self_correction.pattern='answer: (.*)'`",
            )
        try:
            re.compile(settings.pattern)
        except re.error as error:
            yield UserError(
                f"{path}: self_correction.pattern = {toml_text(settings.pattern)} is not a regular expression: {error}",
                "correct it: https://docs.python.org/3/library/re.html",
            )
    if settings.match == "command":
        yield from _command(path, settings)


def _command(path: Path, settings: SelfCorrectionSettings) -> Iterator[UserError]:
    try:
        problem = "" if shlex.split(settings.command) else "and it is empty"
    except ValueError as error:
        problem = f"which cannot be split into words: {error}"
    if problem:
        yield UserError(
            f'{path}: self_correction.match = "command" needs a program in self_correction.command, {problem}', EXAMPLE
        )


def find_program_problem(home: Path, settings: SelfCorrectionSettings) -> str | None:
    """Why the program of the verifier cannot be run; None: it can, or none is needed."""
    from gpu.evaluation.program import program_problem, split_command

    if settings.kind == "off" or settings.match != "command":
        return None
    return program_problem(split_command(settings.command, home))
