"""Messages to the worker that follow from events, and checks that what the worker reports exists on disk."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from cli.config.sample_prompts import sample_plan
from cli.config.schema import Config
from cli.home.paths import Home
from cli.home.snapshot_reader import read_records
from core.state import State
from events import kinds, messages
from events.kinds import AnyEvent, MicrobatchSplit
from events.messages import AnyFact
from gpu.artifacts.artifact import Artifact, CheckpointDirectory, find_problem
from gpu.artifacts.backup import BackupDirectory
from gpu.artifacts.version_manifest import VersionDirectory
from journal import durable
from journal.failpoints import failpoint
from projections.lineage import trained_files

Written = messages.CheckpointWritten | messages.BackedUp | messages.VersionWritten
"""Facts that name a directory. The directory counts once the fact is journaled."""


def answer_to(event: AnyEvent, state: State) -> messages.Committed | messages.RunAgain | None:
    """The answer to a worker that waits until this event is journaled. `state`: after the transaction of the event."""
    match event:
        case kinds.CheckpointCommitted():
            return messages.Committed(attempt=event.attempt, checkpoint=event.checkpoint)
        case MicrobatchSplit() if event.attempt == state.attempts.current and state.training.current is not None:
            return messages.RunAgain(attempt=event.attempt, course=state.training.current.course)
        case _:
            return None


def with_sample_plan(message: messages.Train, home: Home, config: Config) -> messages.Train:
    """Add what keepstep.toml says about samples. Raises OSError."""
    return message if message.samples is None else replace(message, sample_plan=sample_plan(home, config.samples))


def with_suites(message: messages.EvaluateVersion, state: State, config: Config) -> messages.EvaluateVersion:
    """Add what the version is evaluated on, under the limits of the config."""
    parent = state.retention.version(message.parent)
    since_step = parent.global_step if parent is not None else 0
    suites = state.evaluations.suites(config.job.evaluation, since_step)
    return replace(message, suites=suites, model=config.job.model)


def has_questions(home: Home) -> bool:
    """True if the home has a file that may have questions. Raises OSError."""
    if not durable.is_directory(home.questions, storage=home.storage):
        return False
    return any(name.endswith(".jsonl") and not name.startswith(".") for name in home.storage.names(home.questions))


def sample_order(event: AnyEvent, state: State, home: Home, config: Config) -> messages.Sample | None:
    """The message to a worker that trains, after somebody asked for samples or changed their settings. Raises OSError.

    `state`: after the event. A worker that does not train yet gets both with its order to train.
    """
    job, attempt = state.training.current, state.attempts.current
    if attempt is None or job is None or job.status != "training":
        return None
    asked = isinstance(event, kinds.SamplesRequested)
    changed = isinstance(event, kinds.ConfigChanged) and any(each.key.startswith("samples.") for each in event.changes)
    if not asked and not changed:
        return None
    return messages.Sample(attempt=attempt, plan=sample_plan(home, config.samples), asked=asked)


def with_trained_files(message: messages.Consolidate, home: Home, config: Config) -> messages.Consolidate:
    """Add what the config says, and the trained files, which the state does not hold.

    Reads the whole journal: once a night, while nothing trains.
    """
    files = trained_files(read_records(home))
    return replace(message, files=files, space_factor=config.consolidation.space_factor, model=config.job.model)


def missing_results(fact: AnyFact, state: State, home: Home) -> str | None:
    """Why reported results are not usable, by the size of their file; None: they are, or the fact has none."""
    if not isinstance(fact, messages.JobEvaluated | messages.VersionEvaluated) or fact.results is None:
        return None
    failpoint("results_reported")
    if fact.attempt != state.attempts.current:
        return None
    path = home.evaluations / f"{fact.results.id}.json"
    try:
        size_bytes = home.storage.stat(path).st_size
    except FileNotFoundError:
        return f"the worker reported {path.name}, but it is missing"
    if size_bytes == fact.results.size_bytes:
        return None
    return f"the worker reported {path.name}, but it has {size_bytes} bytes instead of {fact.results.size_bytes}"


def problem_of(fact: Written, state: State, home: Home) -> str | None:
    """Why a reported directory is not usable, by the names and sizes of its files; None: it is complete."""
    failpoint("checkpoint_reported")
    if fact.attempt != state.attempts.current:
        return None  # of an attempt that has ended: the fact is ignored
    match fact:
        case messages.CheckpointWritten():
            artifact: Artifact[Any] = CheckpointDirectory(home.checkpoints / fact.checkpoint, home.storage)
        case messages.VersionWritten():
            artifact = VersionDirectory(home.versions / fact.version, home.storage)
        case messages.BackedUp():
            if state.consolidation.running is None:
                return None
            artifact = BackupDirectory(home.backups / state.consolidation.running.backup, home.storage)
    problem = find_problem(artifact, fact.manifest_sha256, every_byte=False)
    name = artifact.path.name
    return f"the worker reported {name}, but it is missing or incomplete: {problem}" if problem is not None else None
