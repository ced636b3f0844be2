"""What the machine wants done, as orders to a worker; and whether what a worker reports is there."""

from __future__ import annotations

from typing import Any

from cli.commands.lineage import trained_files
from cli.home.paths import Home
from core import effects
from core.state import State
from events import kinds, worker
from events.guard import MicrobatchSplit
from events.kinds import AnyEvent
from gpu.artifacts.artifact import Artifact, CheckpointDirectory, find_problem
from gpu.artifacts.backup import BackupDirectory
from gpu.artifacts.version_manifest import VersionDirectory
from journal.failpoints import failpoint

Written = worker.CheckpointWritten | worker.BackedUp | worker.VersionWritten
"""Facts that name a directory which counts once they are journaled."""


def to_train(effect: effects.TrainJob) -> worker.Train:
    """Train from the head on."""
    return worker.Train(
        attempt=effect.attempt,
        global_step=effect.global_step,
        step=effect.step,
        until=effect.until,
        base=effect.base,
        checkpoint=effect.checkpoint,
        carry_optimizer=effect.carry_optimizer,
        course=effect.course,
        evaluates=effect.evaluates,
        evaluated_to=effect.evaluated_to,
        environment=effect.environment,
    )


def answer_to(event: AnyEvent, state: State) -> worker.Committed | worker.RunAgain | None:
    """What a worker that waits for this event to be journaled is to hear. `state`: after it, and what came with it."""
    match event:
        case kinds.CheckpointCommitted():
            return worker.Committed(attempt=event.attempt, checkpoint=event.checkpoint)
        case MicrobatchSplit() if event.attempt == state.attempt and state.current is not None:
            return worker.RunAgain(attempt=event.attempt, course=state.current.course)
        case _:
            return None


def to_consolidate(effect: effects.Consolidate, home: Home, space_factor: float) -> worker.Consolidate:
    """Make a version. Reads the whole journal for what went into it: once a night, when nothing trains."""
    return worker.Consolidate(
        attempt=effect.attempt,
        version=effect.version,
        parent=effect.parent,
        checkpoint=effect.checkpoint,
        backup=effect.backup,
        description=effect.description,
        files=trained_files(home),
        space_factor=space_factor,
    )


def problem_of(fact: Written, state: State, home: Home) -> str | None:
    """Why what was reported is not there, by names and sizes; None if it is."""
    failpoint("checkpoint_reported")
    if fact.attempt != state.attempt:
        return None  # of an attempt that has ended: nothing comes of it anyway
    match fact:
        case worker.CheckpointWritten():
            artifact: Artifact[Any] = CheckpointDirectory(home.checkpoints / fact.checkpoint, home.storage)
        case worker.VersionWritten():
            artifact = VersionDirectory(home.versions / fact.version, home.storage)
        case worker.BackedUp():
            if state.consolidation is None:
                return None
            artifact = BackupDirectory(home.backups / state.consolidation.backup, home.storage)
    problem = find_problem(artifact, fact.manifest_sha256, every_byte=False)
    return f"{artifact.path.name} was reported and is not there whole: {problem}" if problem is not None else None
