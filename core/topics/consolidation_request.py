"""Requests for a consolidation: a person or the schedule asks for one, and it waits until it can start."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING

from msgspec.structs import replace

from core import commands
from core.checks import illegal
from core.errors import Refused
from core.tables import DecideTable, Events, EvolveTable
from core.topics.attempts import BeginAttempt, WaitUntil, is_due, next_attempt
from core.topics.consolidation import BeginConsolidation, Request, already_held, held_version_of
from core.topics.evaluation.versions import BeginEvaluation, next_evaluation
from core.topics.head import nothing_trained
from events import kinds
from events.settings import ConsolidationSettings

if TYPE_CHECKING:
    from core.state import State


# -- the schedule ---------------------------------------------------------------------------------------------------


def date_due(settings: ConsolidationSettings, zone: tzinfo, state: State, now: float) -> str | None:
    """The date (YYYY-MM-DD) that a consolidation is due for; None if none is due, or nothing was trained.

    A date is asked for once, from its moment on. A time of day that a clock change skips comes later, by as much as the
    clocks were set forward; of one that comes twice, the first counts (PEP 495, fold = 0). With `missed = "skip"`,
    nothing is due if the moment was before the daemon started. `now`: Unix time, seconds.
    """
    if not settings.schedule or state.consolidation.request is not None or _is_decided(state):
        return None
    at = time.fromisoformat(settings.schedule)
    day = datetime.fromtimestamp(now, zone).date()
    if _moment(day, at, zone) > now:
        day -= timedelta(days=1)
    since = state.daemon.first_started_at if settings.missed == "run" else state.daemon.process_started_at
    due = _moment(day, at, zone) >= since and day.isoformat() > state.consolidation.last_scheduled
    return day.isoformat() if due else None


def _is_decided(state: State) -> bool:
    """True if nothing was trained since the last version, or since one that is held or was discarded."""
    head = state.head.checkpoint
    return head is None or head.id == state.evaluations.discarded or held_version_of(state) is not None


def _moment(day: date, at: time, zone: tzinfo) -> float:
    return datetime.combine(day, at, tzinfo=zone).timestamp()


# -- commands -------------------------------------------------------------------------------------------------------


def _request(state: State, command: commands.RequestConsolidation, _now: float) -> Events:
    if state.consolidation.request is not None:
        raise Refused(f"a consolidation is already {'running' if state.consolidation.running else 'requested'}")
    if state.head.checkpoint is None and not state.training.in_progress and state.queue.front() is None:
        raise Refused(
            f"{nothing_trained(state)}, so there is nothing to consolidate. "
            "To train: `keepstep add FILE`, then `keepstep run`"
        )
    version = held_version_of(state)
    if version is not None and not state.training.in_progress and state.queue.front() is None:
        raise Refused(already_held(version))
    return [
        kinds.ConsolidationRequested(
            description=command.description, after_current=command.after_current, scheduled_for=command.scheduled_for
        )
    ]


def _cancel(state: State, _command: commands.CancelConsolidation, _now: float) -> Events:
    if state.consolidation.request is None:
        raise Refused("no consolidation is requested")
    if state.consolidation.running is not None:
        version = state.consolidation.running.version
        raise Refused(f"{version} is being made; when it is there, `keepstep versions rollback` undoes it")
    return [kinds.ConsolidationCancelled(message="a person cancelled it")]


DECIDE: DecideTable = {
    commands.RequestConsolidation: _request,
    commands.CancelConsolidation: _cancel,
}


# -- events ---------------------------------------------------------------------------------------------------------


def _requested(state: State, event: kinds.ConsolidationRequested) -> State:
    consolidation = state.consolidation
    if consolidation.request is not None:
        raise illegal(event, "wanted", "one is requested already")
    request = Request(description=event.description, after_current=event.after_current)
    date = consolidation.last_scheduled if event.scheduled_for is None else event.scheduled_for
    return replace(state, consolidation=replace(consolidation, request=request, last_scheduled=date))


def _cancelled(state: State, event: kinds.ConsolidationCancelled) -> State:
    consolidation = state.consolidation
    if consolidation.request is None or consolidation.running is not None:
        raise illegal(event, "running" if consolidation.running else "not wanted")
    return replace(state, consolidation=replace(consolidation, request=None))


EVOLVE: EvolveTable = {
    kinds.ConsolidationRequested: _requested,
    kinds.ConsolidationCancelled: _cancelled,
}


# -- effects --------------------------------------------------------------------------------------------------------


def next_work(state: State, now: float) -> tuple[BeginAttempt | BeginConsolidation | BeginEvaluation | WaitUntil, ...]:
    """What starts when nothing runs: a job in progress first, then the evaluation of a version, then a consolidation or
    the front of the queue."""
    if evaluation := next_evaluation(state, now):
        return evaluation
    request = state.consolidation.request
    if request is None or state.training.in_progress:
        return next_attempt(state, now)
    waits_for_files = state.queue.front() is not None and not request.after_current
    if not waits_for_files and is_due(request.retry_at, now):
        return (BeginConsolidation(),)
    if request.retry_at is None or waits_for_files:
        return next_attempt(state, now)
    return (*next_attempt(state, now), WaitUntil(at=request.retry_at))
