"""Checks of `keepstep doctor`: the model, data files, checkpoints, versions, backups, and the next step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cli.commands.common import count, format_size
from cli.config.model_files import model_directory, weights_bytes
from cli.doctor.context import DoctorContext, Finding, failed, passed, warned
from core.state import State
from events.settings import JobSettings
from events.values import KERNELS

if TYPE_CHECKING:
    from gpu.artifacts.artifact import Artifact

EVERY_BYTE = "every byte"
BY_SIZE = "by names and sizes"


def model(context: DoctorContext) -> Finding:
    """Check the files of the model: present, complete and trainable. Loads nothing."""
    from gpu.model import hub
    from gpu.model.base import is_downloaded, is_hub_id, is_missing_directory
    from gpu.model.problems import find_problem

    settings = context.config.job.model
    found = model_directory(settings, context.home.root)
    if found is None and is_missing_directory(settings.path, context.home.root):
        there = context.home.root / Path(settings.path).expanduser()
        return failed(f"there is no model at {there}", "correct [model] path in keepstep.toml, or put the model there")
    complete = found is not None and is_downloaded(found)
    if found is not None and (problem := find_problem(found, weights=complete)) is not None:
        return failed(f"{found} {problem.what}", problem.advice)
    if found is None or not complete:
        how = f" --revision {settings.revision}" if settings.revision else ""
        return warned(
            f"{settings.path} is not downloaded yet; the first job downloads it",
            f"`hf download {settings.path}{how}` downloads it now",
        )
    limited = check_limits(found, context.config.job.data.max_length)
    if limited is not None:
        return limited
    message = f"{found} has weights of {format_size(weights_bytes(settings, context.home.root) or 0)} and a tokenizer"
    if is_hub_id(settings.path, context.home.root) and not settings.revision:
        return warned(f"{message}, but {settings.path} is not pinned to a commit", hub.how_to_pin(found))
    return passed(message)


def check_limits(directory: Path, max_length: int) -> Finding | None:
    """The finding if tokenizer or settings exceed the limits of the model in `directory`; None if not."""
    from gpu.model.limits import find_vocabulary_problem, read_limits

    try:
        limits = read_limits(directory)
        problem = find_vocabulary_problem(directory, limits)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return failed(f"{directory}: config.json or the tokenizer cannot be read: {error}", "download the model again")
    if problem is not None:
        message, of_every_text = problem
        advice = "use the model's own tokenizer, or `model.resize_token_embeddings(len(tokenizer))` and save the model"
        if of_every_text:
            return failed(f"{directory}: {message}", advice)
        return warned(f"{directory}: {message}; rows with other tokens are refused", advice)
    if limits.positions is not None and limits.positions < max_length:
        return warned(
            f"{directory} has {limits.positions} positions, and [data] max_length = {max_length}: rows are limited to "
            f"{limits.positions} tokens",
            f"`keepstep config set data.max_length {limits.positions}`",
        )
    return None


def data(context: DoctorContext) -> Finding:
    """Check that the data of every unfinished job is there."""
    state, home = context.state, context.home
    jobs = [*state.training.in_progress, *state.queue, *(job for _, job in state.outcomes.failed.items())]
    for job in jobs:
        path = home.data_file(job.id)
        if not path.exists():
            if any((home.data / ".arriving").glob("*/*")):
                continue  # a killed command did not rename it yet: the daemon does
            advice = f"put the file back as {home.relative(path)}, or `keepstep skip {job.id[:12]}`"
            return failed(f"the data of {job.name} is missing", advice)
        if path.stat().st_size != job.size_bytes:
            advice = f"restore its {job.size_bytes} bytes, or `keepstep skip {job.id[:12]}`"
            return failed(f"the data of {job.name} has {path.stat().st_size} bytes", advice)
    return passed(f"the data of {count(len(jobs), 'unfinished job')} is there" if jobs else "no file waits")


def checkpoints(context: DoctorContext) -> Finding:
    """Check that every committed checkpoint is intact."""
    from cli.commands.checkpoints import Verified, recovery_text
    from gpu.artifacts.artifact import CheckpointDirectory, find_problem

    state, home = context.state, context.home
    found = [
        Verified(each, find_problem(directory, each.manifest_sha256, every_byte=context.deep))
        for each in state.head.checkpoints
        for directory in [CheckpointDirectory(home.checkpoints / each.id)]
    ]
    bad = [each for each in found if each.problem is not None]
    how = EVERY_BYTE if context.deep else BY_SIZE
    if bad:
        first = bad[0]
        then = recovery_text(state, found) or "`keepstep checkpoints verify`"
        return failed(f"{first.checkpoint.id}: {first.problem}" + _and_more(len(bad)), then)
    if not found:
        return passed("nothing was trained on the base of the head")
    return passed(f"{count(len(found), 'checkpoint')} intact ({how})")


def versions(context: DoctorContext) -> Finding:
    """Check that every published version is intact."""
    from gpu.artifacts.version_manifest import VersionDirectory

    state, home = context.state, context.home
    named = [(VersionDirectory(home.versions / each.id), each.manifest_sha256) for each in state.retention.versions]
    finding = _check_artifacts(context, named, "version")
    if finding.level == "fail" and state.head.base is not None and state.head.base in finding.message:
        return finding._replace(message=f"{finding.message}; the head depends on it")
    return finding


def backups(context: DoctorContext) -> Finding:
    """Check that every backup is intact."""
    from gpu.artifacts.backup import BackupDirectory

    backups = context.state.retention.backups
    named = [(BackupDirectory(context.home.backups / each.id), each.manifest_sha256) for each in backups]
    return _check_artifacts(context, named, "backup")


def _check_artifacts(context: DoctorContext, named: Sequence[tuple[Artifact[Any], str]], what: str) -> Finding:
    from gpu.artifacts.artifact import find_problem

    damaged = []
    for artifact, sha256 in named:
        problem = find_problem(artifact, sha256, every_byte=context.deep)
        if problem is not None:
            damaged.append((artifact.path.name, problem))
    if damaged:
        name, problem = damaged[0]
        advice = {
            "version": f"restore versions/{name} from a copy, or continue from another: `keepstep versions list`",
            "backup": "make a new one: `keepstep backup create`",
        }[what]
        return failed(f"{name}: {problem}" + _and_more(len(damaged)), advice)
    if not named:
        return passed(f"there is no {what} yet")
    return passed(f"{count(len(named), what)} intact ({EVERY_BYTE if context.deep else BY_SIZE})")


def _and_more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


def resume(context: DoctorContext) -> Finding:
    """Say what the next step starts from; with `deep`, load that in another process."""
    state = context.state
    where = describe_next_step(state)
    if not context.deep:
        return passed(where)
    if context.alive and state.attempts.current is not None:
        return passed(f"{where}; the worker has it loaded")
    settings = _settings(context)
    from cli.home.subprocesses import ask
    from gpu.ipc.protocol import Refusal
    from gpu.versions.rehearse import Rehearse, Rehearsed

    request = Rehearse(
        home=str(context.home.root),
        settings=settings,
        version=state.head.base,
        checkpoint=state.head.checkpoint.id if state.head.checkpoint is not None else None,
        environment=state.training.current.environment if state.training.current is not None else {},
    )
    reply = ask("gpu.versions.rehearse", request, otherwise="check torch: `pip check`")
    answer = msgspec.json.decode(reply, type=Rehearsed | Refusal)
    if isinstance(answer, Refusal):
        return failed(
            f"{where}, but that cannot be loaded: {answer.problem}", "fix that, then `keepstep doctor --deep`"
        )
    device = answer.environment.get("device_name", answer.environment.get("device", ""))
    loaded = f"{where}; loaded in {answer.seconds:.0f} s, {answer.parameters:,} parameters train on {device}"
    changes = _changes(state, answer.environment)
    if changes:
        return warned(
            f"{loaded}, but the environment has changed: {'; '.join(changes)}",
            "the next steps have other bits; undo the change if you did not mean it",
        )
    return passed(loaded)


def _settings(context: DoctorContext) -> JobSettings:
    """The settings of the next attempt. Raises UserError."""
    job = context.state.training.current
    if job is not None and job.begun and job.settings is not None:
        return job.settings
    return context.config.job


def _changes(state: State, now: dict[str, str]) -> Sequence[str]:
    from core.topics.training import environment_changes

    before = dict(state.training.environment)
    if before and state.training.current is None:
        before[KERNELS] = now[KERNELS]  # a new job chooses its kernels: after an upgrade, faster ones
    return environment_changes(before, now)


def describe_next_step(state: State) -> str:
    """The next step in words: its job, its number, its checkpoint and its base."""
    base = state.head.base or "the base model"
    head = f"from {state.head.checkpoint.id} on {base}" if state.head.checkpoint is not None else f"from {base}"
    step = f"global step {state.head.global_step + 1}"
    job = state.training.current
    if job is not None:
        of = f"/{job.goal}" if job.goal is not None else ""
        return f"next: step {job.committed_step + 1}{of} of {job.name} ({step}), {head}"
    waiting = next(iter(state.queue), None)
    if waiting is not None:
        return f"next: step 1 of {waiting.name} ({step}), {head}"
    return f"no file waits; the next one starts at {step}, {head}"
