"""What `keepstep doctor` looks at in what is trained: the model, what was learned, and where it would go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cli.doctor.context import DoctorContext, Finding, failed, passed, size, warned
from core.state import State
from events.settings import JobSettings

if TYPE_CHECKING:
    from gpu.artifacts.artifact import Artifact

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
"""What transformers makes a tokenizer of; one of them is there."""

EVERY_BYTE = "every byte"
BY_SIZE = "by names and sizes"


def model(context: DoctorContext) -> Finding:
    """What training starts from is there, whole, and can be trained beside. By its files: nothing is loaded."""
    from gpu.model import hub
    from gpu.model.base import find_model_problem, is_hub_id

    settings = context.config.job.model
    found = model_directory(settings.path, context.home.root, settings.revision)
    if found is None and settings.path.startswith(("/", ".", "~")):
        there = context.home.root / Path(settings.path).expanduser()
        return failed(f"there is no model at {there}", "correct [model] path in keepstep.toml, or put the model there")
    if found is None:
        how = f" --revision {settings.revision}" if settings.revision else ""
        return warned(
            f"{settings.path} is not here yet; it is fetched when it is first needed",
            f"`hf download {settings.path}{how}` fetches it now",
        )
    if not (found / "config.json").exists():
        return failed(f"{found} has no config.json: it is no model", "correct [model] path in keepstep.toml")
    unusable = find_model_problem(found)
    if unusable is not None:
        return failed(f"{found} {unusable.what}", unusable.advice)
    problem = _problem_of_weights(found)
    if problem is not None:
        return failed(f"{found}: {problem}", "bring that file back, or fetch the model anew")
    if not any((found / name).exists() for name in TOKENIZERS):
        return failed(f"{found} has no tokenizer", f"put its tokenizer there: {' or '.join(TOKENIZERS)}")
    limited = beyond_limits(found, context.config.job.data.max_length)
    if limited is not None:
        return limited
    says = f"{found} is there, with weights of {size(weights_bytes(found))} and a tokenizer"
    if is_hub_id(settings.path, context.home.root) and not settings.revision:
        return warned(f"{says}, but {settings.path} is not pinned to a commit", hub.how_to_pin(found))
    return passed(says)


def beyond_limits(directory: Path, max_length: int) -> Finding | None:
    """What tokenizer and settings ask of the model in `directory` that it does not have; None: nothing."""
    from gpu.model.limits import find_vocabulary_problem, read_limits

    try:
        limits = read_limits(directory)
        problem = find_vocabulary_problem(directory, limits)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return failed(f"{directory}: config.json or the tokenizer cannot be read: {error}", "fetch the model anew")
    if problem is not None:
        says, of_every_text = problem
        advice = "use the model's own tokenizer, or `model.resize_token_embeddings(len(tokenizer))` and save the model"
        if of_every_text:
            return failed(f"{directory}: {says}", advice)
        return warned(f"{directory}: {says}; rows with one of the other tokens are refused", advice)
    if limits.positions is not None and limits.positions < max_length:
        return warned(
            f"{directory} has {limits.positions} positions, and [data] max_length = {max_length}: rows are held to "
            f"{limits.positions} tokens",
            f"`keepstep config set data.max_length {limits.positions}`",
        )
    return None


def model_directory(path: str, home: Path, revision: str = "") -> Path | None:
    """Where the model of the settings lies; None if it is not on this machine."""
    from gpu.errors import ModelUnusable
    from gpu.model.base import base_directory

    try:
        return base_directory(path, home, revision=revision, fetch=False)
    except ModelUnusable:
        return None  # keepstep.toml was checked already: a directory with a revision does not come here


def weights_bytes(directory: Path) -> int:
    """How large the weights are that transformers would load. Raises OSError, msgspec.MsgspecError."""
    from gpu.model.base import weights_files

    return sum((directory / name).stat().st_size for name in weights_files(directory))


def _problem_of_weights(directory: Path) -> str | None:
    from gpu.artifacts.tensors import read_header
    from gpu.model.base import weights_files

    for name in weights_files(directory):
        try:
            read_header((directory / name).resolve())
        except (ValueError, OSError) as error:
            return f"{name} is damaged: {error}"
    return None


def data(context: DoctorContext) -> Finding:
    """The files that are still to be learned from are in keepstep's hands."""
    state, home = context.state, context.home
    jobs = [*state.training.in_progress, *state.queue, *(job for _, job in state.outcomes.failed.items())]
    for job in jobs:
        path = home.data_file(job.id)
        if not path.exists():
            if any((home.data / ".arriving").glob("*/*")):
                continue  # a command was killed between journaling it and naming it: the daemon finishes that
            advice = f"put the file back as {home.relative(path)}, or `keepstep skip {job.id[:12]}`"
            return failed(f"{job.name} is to be learned, and its data is missing", advice)
        if path.stat().st_size != job.size_bytes:
            advice = f"bring its {job.size_bytes} bytes back, or `keepstep skip {job.id[:12]}`"
            return failed(f"the data of {job.name} has {path.stat().st_size} bytes", advice)
    return passed(f"{len(jobs)} files are in hand" if jobs else "no file waits")


def checkpoints(context: DoctorContext) -> Finding:
    """What was committed is what is there."""
    from cli.commands.checkpoints import Found, consequences
    from gpu.artifacts.artifact import CheckpointDirectory, find_problem

    state, home = context.state, context.home
    found = [
        Found(
            each,
            find_problem(
                CheckpointDirectory(home.checkpoints / each.id), each.manifest_sha256, every_byte=context.deep
            ),
        )
        for each in state.head.checkpoints
    ]
    bad = [each for each in found if each.problem is not None]
    how = EVERY_BYTE if context.deep else BY_SIZE
    if bad:
        first = bad[0]
        then = consequences(state, found) or "`keepstep checkpoints verify`"
        return failed(f"{first.checkpoint.id}: {first.problem}" + _more(len(bad)), then)
    if not found:
        return passed("nothing is committed beside the base yet")
    return passed(f"{len(found)} checkpoints are what was committed ({how})")


def versions(context: DoctorContext) -> Finding:
    """What was published is what is there."""
    from gpu.artifacts.version_manifest import VersionDirectory

    state, home = context.state, context.home
    named = [(VersionDirectory(home.versions / each.id), each.manifest_sha256) for each in state.retention.versions]
    finding = _artifacts(context, named, "versions", "were published")
    if finding.level == "fail" and state.head.base is not None and state.head.base in finding.says:
        return finding._replace(says=f"{finding.says}; it is what is trained beside")
    return finding


def backups(context: DoctorContext) -> Finding:
    """What was backed up is what is there."""
    from gpu.artifacts.backup import BackupDirectory

    named = [
        (BackupDirectory(context.home.backups / each.id), each.manifest_sha256)
        for each in context.state.retention.backups
    ]
    return _artifacts(context, named, "backups", "were made")


def _artifacts(context: DoctorContext, named: Sequence[tuple[Artifact[Any], str]], what: str, made: str) -> Finding:
    from gpu.artifacts.artifact import find_problem

    bad = []
    for artifact, sha256 in named:
        problem = find_problem(artifact, sha256, every_byte=context.deep)
        if problem is not None:
            bad.append((artifact.path.name, problem))
    if bad:
        name, problem = bad[0]
        advice = {
            "versions": f"put versions/{name} back as it was, or go on from another: `keepstep versions list`",
            "backups": "make another: `keepstep backup create`",
        }[what]
        return failed(f"{name}: {problem}" + _more(len(bad)), advice)
    if not named:
        return passed(f"there are no {what} yet")
    return passed(f"{len(named)} {what} are what {made} ({EVERY_BYTE if context.deep else BY_SIZE})")


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


def resume(context: DoctorContext) -> Finding:
    """Where the next step goes on, exactly; with `deep` what it starts from is really loaded, in another process."""
    state = context.state
    where = resumes_at(state)
    if not context.deep:
        return passed(where)
    if context.alive and state.attempts.current is not None:
        return passed(f"{where}; a worker has it loaded")
    settings = _settings(context)
    from cli.home.subprocesses import ask
    from gpu.ipc.protocol import Refusal
    from gpu.versions.rehearse import Rehearse, Rehearsed

    order = Rehearse(
        home=str(context.home.root),
        settings=settings,
        version=state.head.base,
        checkpoint=state.head.checkpoint.id if state.head.checkpoint is not None else None,
        environment=state.training.current.environment if state.training.current is not None else {},
    )
    said = ask("gpu.versions.rehearse", order, otherwise="see to torch: `pip check`")
    answer = msgspec.json.decode(said, type=Rehearsed | Refusal)
    if isinstance(answer, Refusal):
        return failed(
            f"{where}, but that cannot be loaded: {answer.problem}", "mend what it names, then `doctor --deep`"
        )
    device = answer.environment.get("device_name", answer.environment.get("device", ""))
    loaded = f"{where}; loaded in {answer.seconds:.0f} s, {answer.parameters:,} parameters learn on {device}"
    changes = _changes(state, answer.environment)
    if changes:
        return warned(
            f"{loaded}, but not as before: {'; '.join(changes)}",
            "the steps from here on have other bits; put that back if it was not meant",
        )
    return passed(loaded)


def _settings(context: DoctorContext) -> JobSettings:
    """What the next attempt runs under. Raises UserError."""
    job = context.state.training.current
    if job is not None and job.begun and job.settings is not None:
        return job.settings
    return context.config.job


def _changes(state: State, now: dict[str, str]) -> Sequence[str]:
    from core.topics.training import environment_changes

    return environment_changes(state.training.environment, now)


def resumes_at(state: State) -> str:
    """In words: which job, at which step, from what, beside what."""
    base = state.head.base or "the base model"
    head = f"from {state.head.checkpoint.id} beside {base}" if state.head.checkpoint is not None else f"from {base}"
    step = f"global step {state.head.global_step + 1}"
    job = state.training.current
    if job is not None:
        of = f" of {job.goal}" if job.goal is not None else ""
        return f"goes on with {job.name} at its step {job.committed_step + 1}{of} ({step}), {head}"
    following = next(iter(state.queue), None)
    if following is not None:
        return f"begins {following.name} at its step 1 ({step}), {head}"
    return f"no file waits; the next one begins at {step}, {head}"
