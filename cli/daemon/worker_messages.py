"""Messages between the daemon and its worker: effects become orders, and reported files are checked."""

from __future__ import annotations

from cli.home.paths import Home
from cli.home.snapshot_reader import read_records
from core import effects
from core.state import State
from events import kinds, worker
from events.guard import MicrobatchSplit
from events.kinds import AnyEvent
from gpu.artifacts import backup, manifest, version_manifest
from journal.failpoints import failpoint
from projections.lineage import trained_files

Written = worker.CheckpointWritten | worker.BackedUp | worker.VersionWritten
"""Facts that name a directory. The directory counts once the fact is journaled."""


def to_train(effect: effects.TrainJob) -> worker.Train:
    """The order to train from the head."""
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
    """The answer to a worker that waits until this event is journaled. `state`: after the transaction of the event."""
    match event:
        case kinds.CheckpointCommitted():
            return worker.Committed(attempt=event.attempt, checkpoint=event.checkpoint)
        case MicrobatchSplit() if event.attempt == state.attempt and state.current is not None:
            return worker.RunAgain(attempt=event.attempt, course=state.current.course)
        case _:
            return None


def to_consolidate(effect: effects.Consolidate, home: Home, space_factor: float) -> worker.Consolidate:
    """The order to make a version. Reads the whole journal for its files: once a night, when nothing trains."""
    return worker.Consolidate(
        attempt=effect.attempt,
        version=effect.version,
        parent=effect.parent,
        checkpoint=effect.checkpoint,
        backup=effect.backup,
        description=effect.description,
        files=trained_files(read_records(home)),
        space_factor=space_factor,
    )


def problem_of(fact: Written, state: State, home: Home) -> str | None:
    """Why a reported directory is not usable, by the names and sizes of its files; None: it is complete."""
    failpoint("checkpoint_reported")
    if fact.attempt != state.attempt:
        return None  # of an attempt that has ended: the fact is ignored
    match fact:
        case worker.CheckpointWritten():
            name, problem = (
                fact.checkpoint,
                manifest.problem_of(
                    home.checkpoints / fact.checkpoint, fact.manifest_sha256, every_byte=False, storage=home.storage
                ),
            )
        case worker.VersionWritten():
            name, problem = (
                fact.version,
                version_manifest.problem_of(
                    home.versions / fact.version, fact.manifest_sha256, every_byte=False, storage=home.storage
                ),
            )
        case worker.BackedUp():
            if state.consolidation is None:
                return None
            name, problem = (
                state.consolidation.backup,
                backup.problem_of(
                    home.backups / state.consolidation.backup,
                    fact.manifest_sha256,
                    every_byte=False,
                    storage=home.storage,
                ),
            )
    return f"the worker reported {name}, but it is missing or incomplete: {problem}" if problem is not None else None
