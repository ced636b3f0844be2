"""A consolidation: back up the head, merge it into a new version, verify and publish the version.

Whatever ends an attempt at it (a kill, a pause, a full disk, a failure) leaves everything as it was before. The request
stands, and the consolidation starts again from the beginning when it is due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from core import commands
from core.checks import illegal, move_daemon, refuse_unless_idle
from core.effect import Effect, SendToWorker
from core.errors import IllegalEvent, Refused
from core.structures.step_log import StepLog
from core.tables import DecideTable, Events, EvolveTable
from core.topics import attempts, disk, recovery, retention
from core.topics.head import nothing_trained
from core.transitions import CONSOLIDATION, ConsolidationStatus
from core.values import Version
from events import kinds, messages
from events.codec import kind_of
from events.kinds import AnyEvent
from events.settings import Gate
from events.values import Failure, backup_before, version_id

if TYPE_CHECKING:
    from core.state import State

NO_RETRY: frozenset[Failure] = frozenset({"preflight", "model"})
"""Failures that do not pass within a minute; a person asks again."""


class Request(Struct, frozen=True, kw_only=True):
    """A consolidation that was asked for."""

    description: str
    after_current: bool
    failures: int = 0
    retry_at: float | None = None
    """Unix time, seconds."""


class Run(Struct, frozen=True, kw_only=True):
    """The consolidation that runs, as the attempt `Attempts.current`."""

    status: ConsolidationStatus
    version: str
    parent: str | None
    checkpoint: str
    backup: str
    gate: Gate | None = None
    applied: float | None = None
    in_place: float | None = None
    difference: float = 0.0


class Consolidation(Struct, frozen=True, gc=False):
    """The consolidation that was asked for, and the one that runs in the place of a job."""

    request: Request | None = None
    running: Run | None = None
    last_scheduled: str = ""
    """The last date (YYYY-MM-DD) that the schedule asked for one."""


class BeginConsolidation(Effect, frozen=True, kw_only=True):
    """Journal `consolidation_started`."""


# -- commands and reports of the worker -----------------------------------------------------------------------------


def _start(state: State, command: commands.StartConsolidation, _now: float) -> Events:
    refuse_unless_idle(state)
    if (
        state.consolidation.request is None
        or state.training.in_progress
        or state.disk.full is not None
        or state.memory.shortage is not None
        or state.daemon.status != "idle"
    ):
        raise Refused("a consolidation cannot start now")
    head = state.head
    if head.checkpoint is None:
        return [kinds.ConsolidationCancelled(message=nothing_trained(state))]
    if (version := held_version_of(state)) is not None:
        return [kinds.ConsolidationCancelled(message=already_held(version))]
    attempt, version = state.attempts.last + 1, version_id(state.retention.versions_made + 1)
    return [
        kinds.ConsolidationStarted(
            attempt=attempt,
            version=version,
            parent=head.base,
            checkpoint=head.checkpoint.id,
            backup=backup_before(version, attempt),
            gate=command.gate,
        )
    ]


def held_version_of(state: State) -> str | None:
    """The held version that was made of the head as it is; None: there is none."""
    head = state.head.checkpoint
    versions = (state.retention.version(held.version) for held in state.evaluations.held)
    return next((each.id for each in versions if each and head and each.checkpoint == head.id), None)


def already_held(version: str) -> str:
    """Why no other version is made of the same weights."""
    return (
        f"{version} has everything that was trained, and is held: `keepstep versions promote {version}` moves the head "
        f"to it, `keepstep versions discard {version}` deletes it"
    )


def _nothing(_state: State, _report: object, _now: float) -> Events:
    return []


DECIDE: DecideTable = {
    commands.StartConsolidation: _start,
    # These reports are about a consolidation that has ended; `DECIDE_WHILE_RUNNING` has those about the running one.
    messages.BackedUp: _nothing,
    messages.Merged: _nothing,
    messages.Verified: _nothing,
    messages.VersionWritten: _nothing,
}


def _backed_up(state: State, report: messages.BackedUp, now: float) -> Events:
    running, head = state.consolidation.running, state.head.checkpoint
    assert running is not None
    assert head is not None  # it is being consolidated
    created = retention.backup_created(running.parent, head, report, f"before {running.version}", running.backup, now)
    return [created, kinds.ConsolidationBackedUp(attempt=report.attempt)]


def _merged(_state: State, report: messages.Merged, _now: float) -> Events:
    return [kinds.ConsolidationMerged(**asdict(report))]


def _verified(_state: State, report: messages.Verified, _now: float) -> Events:
    return [kinds.ConsolidationVerified(**asdict(report))]


def _version_written(state: State, report: messages.VersionWritten, now: float) -> Events:
    """Publish the version. Unless the gate holds it, move the head to it and prune what it was merged from: the version
    and its backup hold that."""
    running = state.consolidation.running
    assert running is not None
    promoted = running.gate != "hold"
    return [
        kinds.VersionPublished(**asdict(report), made_at=now),
        kinds.ConsolidationFinished(attempt=report.attempt, version=report.version, promoted=promoted),
        *(retention.prune(state.head.checkpoints) if promoted else ()),
    ]


def _yielded(_state: State, report: messages.Yielded, _now: float) -> Events:
    message = "it was asked to yield"
    return [kinds.ConsolidationAborted(attempt=report.attempt, failure=None, message=message, retry_at=None)]


def _checkpoint_bad(state: State, report: messages.CheckpointBad, now: float) -> Events:
    aborted = kinds.ConsolidationAborted(
        attempt=report.attempt, failure="checkpoint", message=report.problem, retry_at=now
    )
    if state.head.checkpoint is None or report.checkpoint != state.head.checkpoint.id:
        return _fail(state, "code", f"the worker was to merge the head, not {report.checkpoint}", now)
    return [aborted, *recovery.quarantine(state, report.checkpoint, report.problem)]


def _worker_failed(state: State, report: messages.Failed | commands.ReportWorkerLost, now: float) -> Events:
    return _fail(state, report.failure, report.message, now)


def fail_for_full_disk(state: State, command: commands.ReportDiskFull, now: float) -> Events:
    """End the running consolidation and wait for disk space."""
    return _fail(state, "disk_full", command.message, now, command.wanted_bytes)


DECIDE_WHILE_RUNNING: DecideTable = {
    messages.BackedUp: _backed_up,
    messages.Merged: _merged,
    messages.Verified: _verified,
    messages.VersionWritten: _version_written,
    messages.Yielded: _yielded,
    messages.CheckpointBad: _checkpoint_bad,
    messages.Failed: _worker_failed,
    commands.ReportWorkerLost: _worker_failed,
    commands.ReportDiskFull: fail_for_full_disk,
}
"""Handlers for commands and reports about the running consolidation. They take the place of those in the other
tables."""


def _fail(state: State, failure: Failure, message: str, now: float, wanted_bytes: int = 0) -> Events:
    """The running attempt failed: retry later, cancel the request, or wait for disk space."""
    assert state.attempts.current is not None
    assert state.consolidation.request is not None
    wait: float | None = None
    then: Events = ()
    if failure == "disk_full":
        then = disk.exhausted(state, message, wanted_bytes)
    else:
        if failure not in NO_RETRY:
            wait = attempts.retry_wait_s(state.consolidation.request.failures + 1, state.attempts.current)
        if wait is None:
            then = [kinds.ConsolidationCancelled(message=f"{message} {_advice(state, failure)}")]
    aborted = kinds.ConsolidationAborted(
        attempt=state.attempts.current,
        failure=failure,
        message=message,
        retry_at=None if wait is None else now + wait,
    )
    return [aborted, *then]


def _advice(state: State, failure: Failure) -> str:
    """What to do about a cancelled consolidation. What was trained stays a checkpoint in each case."""
    again = "(`keepstep consolidate` asks for it again)"
    if failure != "model" or state.head.checkpoint is None:
        return again
    return (
        f"Nothing is lost: {state.head.checkpoint.id} stays, and loads with transformers and peft. To train on without "
        f"it, `keepstep versions rollback` goes back to {state.head.base or 'the origin'} {again}"
    )


def interrupted(state: State) -> list[AnyEvent]:
    """The daemon of the running consolidation is gone."""
    assert state.attempts.current is not None
    message = f"the daemon (pid {state.daemon.pid}) was gone"
    return [kinds.ConsolidationAborted(attempt=state.attempts.current, failure=None, message=message, retry_at=None)]


def impossible(state: State, error: IllegalEvent, now: float) -> Events:
    """The worker reported something that cannot be true, so its attempt has failed."""
    return _fail(state, "code", f"the worker reported something impossible: {error}", now)


# -- events ---------------------------------------------------------------------------------------------------------


def _started(state: State, event: kinds.ConsolidationStarted) -> State:
    head = state.head
    if state.consolidation.request is None or state.training.in_progress:  # that nothing runs, the daemon's table says
        raise illegal(event, state.daemon.status, "nobody asked for it, or a job is in progress")
    if event.attempt != state.attempts.last + 1:
        raise illegal(event, "wanted", f"attempt {event.attempt} does not follow attempt {state.attempts.last}")
    if head.checkpoint is None or (event.checkpoint, event.parent) != (head.checkpoint.id, head.base):
        raise illegal(event, "wanted", f"{event.checkpoint}, trained from {event.parent}, is not the head")
    if event.version != version_id(state.retention.versions_made + 1):
        raise illegal(event, "wanted", f"{event.version} is not the next version")
    running = Run(
        status="started",
        version=event.version,
        parent=event.parent,
        checkpoint=event.checkpoint,
        backup=event.backup,
        gate=event.gate,
    )
    return replace(
        move_daemon(state, event),
        attempts=state.attempts.started(event.attempt, head.global_step),
        home=replace(state.home, repaired=False),
        consolidation=replace(state.consolidation, running=running),
    )


def _moved(state: State, event: Any) -> Run:
    """The running consolidation, moved by its table. Raises IllegalEvent."""
    running = state.consolidation.running
    if running is None or event.attempt != state.attempts.current:
        raise illegal(event, "no consolidation", f"attempt {event.attempt} is none, or not the running one")
    status = CONSOLIDATION[running.status].get(kind_of(event))
    if status is None:
        raise illegal(event, running.status)
    return replace(running, status=status)


def _on(state: State, running: Run) -> State:
    return replace(state, consolidation=replace(state.consolidation, running=running))


def _backed_up_event(state: State, event: kinds.ConsolidationBackedUp) -> State:
    running = _moved(state, event)
    if state.retention.backup(running.backup) is None:
        raise illegal(event, "started", f"{running.backup} has not been created")
    return _on(state, running)


def _merged_event(state: State, event: kinds.ConsolidationMerged) -> State:
    return _on(state, replace(_moved(state, event), applied=event.applied, in_place=event.in_place))


def _verified_event(state: State, event: kinds.ConsolidationVerified) -> State:
    return _on(state, replace(_moved(state, event), difference=event.difference))


def _version_published(state: State, event: kinds.VersionPublished) -> State:
    running, retained = _moved(state, event), state.retention
    if event.version != running.version:
        raise illegal(event, "verified", f"{running.version} is being made")
    assert state.consolidation.request is not None
    assert state.head.weight_settings is not None  # something was committed
    version = Version(
        id=event.version,
        parent=running.parent,
        checkpoint=running.checkpoint,
        global_step=state.head.global_step,
        description=state.consolidation.request.description,
        made_at=event.made_at,
        size_bytes=event.size_bytes,
        manifest_sha256=event.manifest_sha256,
        weight_settings=state.head.weight_settings,
        applied=running.applied,
        in_place=running.in_place,
        difference=running.difference,
    )
    versions = (*retained.versions, version)
    retained = replace(retained, versions=versions, versions_made=retained.versions_made + 1)
    evaluations = state.evaluations
    if running.gate is not None:
        evaluations = evaluations.published(version.id, holds=running.gate == "hold")
    return replace(_on(state, running), retention=retained, evaluations=evaluations)


def _ended(state: State, event: kinds.ConsolidationFinished | kinds.ConsolidationAborted) -> State:
    _moved(state, event)
    return replace(move_daemon(state, event, "attempt_ended"), attempts=state.attempts.ended())


def _finished(state: State, event: kinds.ConsolidationFinished) -> State:
    head, step = state.head, state.head.global_step
    held = state.evaluations.hold_of(event.version) is not None
    if held == event.promoted:
        raise illegal(event, "published", f"{event.version} is {'held' if held else 'not held'}")
    ended = _ended(state, event)
    ended = replace(ended, consolidation=replace(state.consolidation, request=None, running=None))
    if held:
        return ended
    return replace(
        ended,
        head=replace(
            head,
            base=event.version,
            base_step=step,
            checkpoints=(),
            detached=(*head.detached, *head.branch()),
        ),
        recovery=replace(state.recovery, replay_ranges=(), step_log=StepLog(step)),
    )


def _aborted(state: State, event: kinds.ConsolidationAborted) -> State:
    ended, request = _ended(state, event), state.consolidation.request
    assert request is not None
    failures = request.failures + (event.retry_at is not None)
    request = replace(request, failures=failures, retry_at=event.retry_at)
    return replace(ended, consolidation=replace(state.consolidation, request=request, running=None))


EVOLVE: EvolveTable = {
    kinds.ConsolidationStarted: _started,
    kinds.ConsolidationBackedUp: _backed_up_event,
    kinds.ConsolidationMerged: _merged_event,
    kinds.ConsolidationVerified: _verified_event,
    kinds.VersionPublished: _version_published,
    kinds.ConsolidationFinished: _finished,
    kinds.ConsolidationAborted: _aborted,
}


# -- effects --------------------------------------------------------------------------------------------------------


def messages_of_the_consolidation(state: State) -> tuple[SendToWorker, ...]:
    """The message that starts the running consolidation; the sender adds what the journal and the config say."""
    running, attempt, request = state.consolidation.running, state.attempts.current, state.consolidation.request
    assert running is not None
    assert attempt is not None
    assert request is not None
    if running.status != "started":  # then the worker is at it
        return ()
    message = messages.Consolidate(
        attempt=attempt,
        version=running.version,
        parent=running.parent,
        checkpoint=running.checkpoint,
        backup=running.backup,
        description=request.description,
    )
    return (SendToWorker(message=message),)
