"""Messages to the worker that follow from events, and checks that what the worker reports exists on disk."""

from __future__ import annotations

from msgspec.structs import replace

from cli.commands.lineage import trained_files
from cli.home.paths import Home
from core.state import State
from events import kinds, messages
from events.kinds import AnyEvent, MicrobatchSplit
from gpu.artifacts import backup, manifest, version_manifest
from journal.failpoints import failpoint

Written = messages.CheckpointWritten | messages.BackedUp | messages.VersionWritten
"""Facts that name a directory which counts once they are journaled."""


def answer_to(event: AnyEvent, state: State) -> messages.Committed | messages.RunAgain | None:
    """What a worker that waits for this event to be journaled is to hear. `state`: after it, and what came with it."""
    match event:
        case kinds.CheckpointCommitted():
            return messages.Committed(attempt=event.attempt, checkpoint=event.checkpoint)
        case MicrobatchSplit() if event.attempt == state.attempts.current and state.training.current is not None:
            return messages.RunAgain(attempt=event.attempt, course=state.training.current.course)
        case _:
            return None


def with_files(message: messages.Consolidate, home: Home, space_factor: float) -> messages.Consolidate:
    """Add what the state does not hold. Reads the whole journal for the trained files: once a night, when nothing
    trains."""
    return replace(message, files=trained_files(home), space_factor=space_factor)


def problem_of(fact: Written, state: State, home: Home) -> str | None:
    """Why what was reported is not there, by names and sizes; None if it is."""
    failpoint("checkpoint_reported")
    if fact.attempt != state.attempts.current:
        return None  # of an attempt that has ended: nothing comes of it anyway
    match fact:
        case messages.CheckpointWritten():
            name, problem = (
                fact.checkpoint,
                manifest.problem_of(
                    home.checkpoints / fact.checkpoint, fact.manifest_sha256, every_byte=False, storage=home.storage
                ),
            )
        case messages.VersionWritten():
            name, problem = (
                fact.version,
                version_manifest.problem_of(
                    home.versions / fact.version, fact.manifest_sha256, every_byte=False, storage=home.storage
                ),
            )
        case messages.BackedUp():
            if state.consolidation.running is None:
                return None
            name, problem = (
                state.consolidation.running.backup,
                backup.problem_of(
                    home.backups / state.consolidation.running.backup,
                    fact.manifest_sha256,
                    every_byte=False,
                    storage=home.storage,
                ),
            )
    return f"{name} was reported and is not there whole: {problem}" if problem is not None else None
