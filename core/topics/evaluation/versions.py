"""Evaluations of versions.

A version is evaluated once, after its consolidation, and again when a person asks. The evaluation is an attempt like a
consolidation; nothing trains meanwhile. It changes no weights. If its worker fails, it is tried once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import asdict, replace

from core import commands
from core.checks import illegal, move_daemon, refuse_unless_idle
from core.effect import Effect, SendToWorker
from core.errors import IllegalEvent, Refused
from core.structures.evaluations import Evaluated, Pending, Run
from core.tables import DecideTable, Events, EvolveTable
from core.topics import attempts, disk
from core.topics.evaluation.gate import NO_SUITES, why_not_judged, worse_than_parent
from core.topics.evaluation.held import existing_version, gated
from events import kinds, messages
from events.kinds import AnyEvent
from events.values import Failure, evaluation_of_version

if TYPE_CHECKING:
    from core.state import State

TRIES = 2
"""Attempts at an evaluation that fail: nothing depends on it, and a failure that comes twice comes a third time."""

NO_RETRY: frozenset[Failure] = frozenset({"model", "preflight"})
"""Failures that do not pass within a minute."""


class BeginEvaluation(Effect, frozen=True, kw_only=True):
    """Journal `version_evaluation_started`, under the settings that the config file holds now."""


# -- commands of a person -------------------------------------------------------------------------------------------


def _request(state: State, command: commands.RequestEvaluation, _now: float) -> Events:
    existing_version(state, command.version)
    if state.evaluations.is_pending(command.version):
        running = state.evaluations.running
        is_running = running is not None and running.version == command.version
        raise Refused(f"the evaluation of {command.version} is already {'running' if is_running else 'requested'}")
    return [kinds.VersionEvaluationRequested(version=command.version)]


def _start(state: State, command: commands.StartEvaluation, _now: float) -> Events:
    refuse_unless_idle(state)
    pending = state.evaluations.pending
    if (
        not pending
        or state.training.in_progress
        or state.disk.full is not None
        or state.memory.shortage is not None
        or state.daemon.status != "idle"
    ):
        raise Refused("an evaluation cannot start now")
    version, attempt = existing_version(state, pending[0].version), state.attempts.last + 1
    if not command.has_suites and state.evaluations.hold_of(version.id) is not None:
        return [kinds.VersionHeld(version=version.id, reason=NO_SUITES)]  # no worker is needed to find that out
    return [
        kinds.VersionEvaluationStarted(
            attempt=attempt,
            version=version.id,
            parent=version.parent,
            evaluation=evaluation_of_version(version.id, attempt),
            settings=command.settings,
        )
    ]


def _record_tasks(state: State, command: commands.RecordTasks, _now: float) -> Events:
    existing_version(state, command.version)
    return [kinds.TasksEvaluated(**asdict(command))]


def _nothing(_state: State, _report: object, _now: float) -> Events:
    return []


DECIDE: DecideTable = {
    commands.RequestEvaluation: _request,
    commands.StartEvaluation: _start,
    commands.RecordTasks: _record_tasks,
    messages.VersionEvaluated: _nothing,  # of an attempt that has ended; `DECIDE_WHILE_RUNNING` has the running one
}


# -- reports of the worker ------------------------------------------------------------------------------------------


def _evaluated(state: State, report: messages.VersionEvaluated, _now: float) -> Events:
    """Journal the results, and decide about a version that is held."""
    running = _running(state)
    worse = worse_than_parent(report.scores, report.comparison, running.settings, state.evaluations.name_of)
    evaluated = kinds.VersionEvaluated(**asdict(report), worse=worse)
    holds = running.settings.gate == "hold"
    return [evaluated, *gated(state, _running(state).version, (worse or why_not_judged(report)) if holds else "")]


def _yielded(state: State, _report: messages.Yielded, _now: float) -> Events:
    return [_ended(state, None, "it was asked to yield", retry=True)]


def _worker_failed(state: State, report: messages.Failed | commands.ReportWorkerLost, now: float) -> Events:
    return _fail(state, report.failure, report.message, now)


def fail_for_full_disk(state: State, command: commands.ReportDiskFull, now: float) -> Events:
    """End the running evaluation and wait for disk space."""
    return _fail(state, "disk_full", command.message, now, command.wanted_bytes)


DECIDE_WHILE_RUNNING: DecideTable = {
    messages.VersionEvaluated: _evaluated,
    messages.Yielded: _yielded,
    messages.Failed: _worker_failed,
    commands.ReportWorkerLost: _worker_failed,
    commands.ReportDiskFull: fail_for_full_disk,
}
"""Handlers for commands and reports about the running evaluation. They take the place of those in the other tables."""


def _fail(state: State, failure: Failure, message: str, now: float, wanted_bytes: int = 0) -> Events:
    """The running attempt failed: retry later, wait for disk space, or evaluate no more."""
    attempt = state.attempts.current
    assert attempt is not None
    if failure == "disk_full":
        return [_ended(state, failure, message, retry=True), *disk.exhausted(state, message, wanted_bytes)]
    failures = state.evaluations.pending[0].failures + 1
    if failures < TRIES and failure not in NO_RETRY:
        wait_s = attempts.retry_wait_s(failures, attempt)
        return [_ended(state, failure, message, retry=True, retry_at=now + wait_s if wait_s is not None else None)]
    return [
        _ended(state, failure, message, retry=False),
        *gated(state, _running(state).version, f"its evaluation failed: {message}"),
    ]


def _ended(
    state: State, failure: Failure | None, message: str, *, retry: bool, retry_at: float | None = None
) -> AnyEvent:
    assert state.attempts.current is not None
    return kinds.VersionEvaluationFailed(
        attempt=state.attempts.current,
        version=_running(state).version,
        failure=failure,
        message=message,
        retry=retry,
        retry_at=retry_at,
    )


def interrupted(state: State) -> list[AnyEvent]:
    """The daemon of the running evaluation is gone."""
    return [_ended(state, None, f"the daemon (pid {state.daemon.pid}) was gone", retry=True)]


def impossible(state: State, error: IllegalEvent, now: float) -> Events:
    """The worker reported something that cannot be true, so its attempt has failed."""
    return _fail(state, "code", f"the worker reported something impossible: {error}", now)


def _running(state: State) -> Run:
    assert state.evaluations.running is not None
    return state.evaluations.running


# -- events ---------------------------------------------------------------------------------------------------------


def _requested(state: State, event: kinds.VersionEvaluationRequested) -> State:
    evaluations = state.evaluations
    if state.retention.version(event.version) is None or evaluations.is_pending(event.version):
        raise illegal(event, state.daemon.status, f"{event.version} does not exist, or its evaluation is pending")
    return replace(state, evaluations=replace(evaluations, pending=(*evaluations.pending, Pending(event.version))))


def _started(state: State, event: kinds.VersionEvaluationStarted) -> State:
    evaluations = state.evaluations
    if not evaluations.pending or evaluations.pending[0].version != event.version or state.training.in_progress:
        raise illegal(event, state.daemon.status, f"{event.version} is not to be evaluated, or a job is in progress")
    version = state.retention.version(event.version)
    if event.attempt != state.attempts.last + 1 or version is None or version.parent != event.parent:
        raise illegal(event, state.daemon.status, f"attempt {event.attempt} or parent {event.parent} do not fit")
    running = Run(version=event.version, parent=event.parent, evaluation=event.evaluation, settings=event.settings)
    return replace(
        move_daemon(state, event),
        attempts=state.attempts.started(event.attempt, state.head.global_step),
        home=replace(state.home, repaired=False),
        evaluations=replace(evaluations, running=running),
    )


def _attempt_ended(state: State, event: kinds.VersionEvaluated | kinds.VersionEvaluationFailed) -> State:
    """The state after the attempt, with its version no longer pending. Raises IllegalEvent."""
    evaluations = state.evaluations
    running = evaluations.running
    if running is None or (event.attempt, event.version) != (state.attempts.current, running.version):
        raise illegal(event, "no evaluation", f"attempt {event.attempt} is none, or not the running one")
    return replace(
        move_daemon(state, event, "attempt_ended"),
        attempts=state.attempts.ended(),
        evaluations=replace(evaluations, running=None, pending=evaluations.pending[1:]),
    )


def _evaluated_event(state: State, event: kinds.VersionEvaluated) -> State:
    running = state.evaluations.running
    if running is not None and event.results.id != running.evaluation:
        raise illegal(event, "running", f"{event.results.id} is not the running evaluation")
    ended = _attempt_ended(state, event)
    others = tuple(each for each in ended.evaluations.evaluated if each.version != event.version)
    newest = Evaluated(event.version, event.results, event.suites_sha256)
    return replace(ended, evaluations=replace(ended.evaluations, evaluated=(*others, newest)))


def _failed(state: State, event: kinds.VersionEvaluationFailed) -> State:
    ended = _attempt_ended(state, event)
    if not event.retry:
        return ended
    failures = state.evaluations.pending[0].failures + (event.retry_at is not None)
    again = Pending(event.version, failures, event.retry_at)
    return replace(ended, evaluations=replace(ended.evaluations, pending=(again, *ended.evaluations.pending)))


def _tasks_evaluated(state: State, event: kinds.TasksEvaluated) -> State:
    """They decide nothing, so the state does not keep them."""
    if state.retention.version(event.version) is None:
        raise illegal(event, state.daemon.status, f"{event.version} does not exist")
    return state


EVOLVE: EvolveTable = {
    kinds.TasksEvaluated: _tasks_evaluated,
    kinds.VersionEvaluationRequested: _requested,
    kinds.VersionEvaluationStarted: _started,
    kinds.VersionEvaluated: _evaluated_event,
    kinds.VersionEvaluationFailed: _failed,
}


# -- effects --------------------------------------------------------------------------------------------------------


def next_evaluation(state: State, now: float) -> tuple[BeginEvaluation | attempts.WaitUntil, ...]:
    """The evaluation to start now, or the time to wait until: no job may start before, because it moves the head."""
    pending = state.evaluations.pending
    if not pending or state.training.in_progress:
        return ()
    retry_at = pending[0].retry_at
    if retry_at is not None and not attempts.is_due(retry_at, now):
        return (attempts.WaitUntil(at=retry_at),)
    return (BeginEvaluation(),)


def messages_of_the_evaluation(state: State) -> tuple[SendToWorker, ...]:
    """The message that starts the running evaluation; the sender adds what the journal and the config say."""
    running, attempt = _running(state), state.attempts.current
    assert attempt is not None
    message = messages.EvaluateVersion(
        attempt=attempt,
        version=running.version,
        parent=running.parent,
        has_parent=running.parent is None or state.retention.version(running.parent) is not None,
        evaluation=running.evaluation,
        parent_results=state.evaluations.results_of(running.parent),
    )
    return (SendToWorker(message=message),)
