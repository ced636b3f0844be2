"""State in, effects out: the work that the state requires now.

This is how a restart resumes: no list of open work exists, it is computed from the state each time. So the same effect
may be asked for more than once, and carrying it out twice has the same result as once. The intent is journaled before
the effect, its outcome after it.
"""

from __future__ import annotations

from core.effect import Effect, SendToWorker
from core.state import State
from core.topics.attempts import BeginAttempt, WaitUntil
from core.topics.consolidation import BeginConsolidation, messages_of_the_consolidation
from core.topics.consolidation_request import next_work
from core.topics.daemon import StopProcess
from core.topics.disk import AwaitDiskSpace
from core.topics.evaluation.versions import BeginEvaluation, messages_of_the_evaluation
from core.topics.head import RestoreCheckpoint, restores
from core.topics.memory import ends_attempts
from core.topics.outcomes import MoveRejected, moves_of_rejected
from core.topics.training import messages_of_the_attempt
from core.transitions import STOPPING
from events import messages

__all__ = [
    "AnyEffect",
    "AwaitDiskSpace",
    "BeginAttempt",
    "BeginConsolidation",
    "BeginEvaluation",
    "Effect",
    "MoveRejected",
    "RestoreCheckpoint",
    "SendToWorker",
    "StopProcess",
    "WaitUntil",
    "next_effects",
]

AnyEffect = (
    BeginAttempt
    | BeginConsolidation
    | BeginEvaluation
    | SendToWorker
    | RestoreCheckpoint
    | MoveRejected
    | AwaitDiskSpace
    | WaitUntil
    | StopProcess
)


def next_effects(state: State, now: float) -> tuple[AnyEffect, ...]:
    """Everything that the state requires at `now` (Unix time, seconds)."""
    moves = moves_of_rejected(state)
    if state.attempts.current is not None:
        return (*moves, *_for_the_running_attempt(state, state.attempts.current, now))
    if state.daemon.status in STOPPING:
        return (*moves, StopProcess())
    if state.disk.full is not None:
        return (AwaitDiskSpace(wanted_bytes=state.disk.full.wanted_bytes),)
    if state.daemon.status == "idle" and state.memory.shortage is None:
        return (*moves, *(restores(state) or next_work(state, now)))
    return moves


def _for_the_running_attempt(state: State, attempt: int, now: float) -> tuple[AnyEffect, ...]:
    job = state.training.current  # none is in progress while anything else runs
    must_yield = state.daemon.status != "working" or ends_attempts(state.memory.shortage, now)
    if must_yield or (job is not None and job.skip_requested):
        return (SendToWorker(message=messages.Yield(attempt=attempt)),)
    if state.evaluations.running is not None:
        return messages_of_the_evaluation(state)
    return messages_of_the_consolidation(state) if job is None else messages_of_the_attempt(state)
