"""Consolidation: what is asked for and what the worker reports of it, in; events, out. A part of `decide`.

Whatever ends an attempt at it (a kill, a pause, a full disk, a failure) leaves everything as it was before, and the
wish for it stands: it is begun again from the beginning, when its time has come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from core import commands, policies
from core.errors import Refused
from core.reports import condemned, out_of_space, refuse_unless_idle
from core.reports import run_out_of_space as of_a_job
from core.state import State
from events import kinds, versions, worker
from events.kinds import AnyEvent
from events.values import Failure, backup_before, version_id

Events = Sequence[AnyEvent]

ABANDONED_AT_ONCE: frozenset[Failure] = frozenset({"preflight", "model"})
"""Failures that waiting a minute does not mend; whoever wants it asks again."""


def _request(state: State, command: commands.RequestConsolidation, _now: float) -> Events:
    if state.consolidation_request is not None:
        raise Refused(f"a consolidation is {'running' if state.consolidation else 'asked for'} already")
    if state.head is None and not state.begun and state.queue.front() is None:
        raise Refused(f"nothing was learned since {state.base or 'the origin'}, so there is nothing to consolidate")
    return [
        versions.ConsolidationRequested(
            description=command.description, after_current=command.after_current, night=command.night
        )
    ]


def _cancel(state: State, _command: commands.CancelConsolidation, _now: float) -> Events:
    if state.consolidation_request is None:
        raise Refused("no consolidation is asked for")
    if state.consolidation is not None:
        raise Refused(f"{state.consolidation.version} is being made; it can be rolled back when it is there")
    return [versions.ConsolidationCancelled(message="it is not wanted any more")]


def _start(state: State, _command: commands.StartConsolidation, _now: float) -> Events:
    refuse_unless_idle(state)
    if (
        state.consolidation_request is None
        or state.begun
        or state.full is not None
        or state.short is not None
        or state.daemon.status != "idle"
    ):
        raise Refused("it is not the time for a consolidation")
    head = state.head
    if head is None:
        return [versions.ConsolidationCancelled(message=f"nothing was learned since {state.base or 'the origin'}")]
    attempt, version = state.attempts + 1, version_id(state.versions_made + 1)
    return [
        versions.ConsolidationStarted(
            attempt=attempt,
            version=version,
            parent=state.base,
            checkpoint=head.id,
            backup=backup_before(version, attempt),
        )
    ]


# -- what the worker reports ----------------------------------------------------------------------------------------


def _backed_up(state: State, fact: worker.BackedUp, now: float) -> Events:
    running, head = state.consolidation, state.head
    assert running is not None
    assert head is not None  # it was consolidated
    created = versions.BackupCreated(
        backup=running.backup,
        reason=f"before {running.version}",
        version=running.parent,
        checkpoint=head.id,
        job=head.job,
        attempt=head.attempt,
        global_step=head.global_step,
        step=head.step,
        checkpoint_bytes=head.size_bytes,
        checkpoint_sha256=head.manifest_sha256,
        size_bytes=fact.size_bytes,
        manifest_sha256=fact.manifest_sha256,
        made_at=now,
    )
    return [created, versions.ConsolidationBackedUp(attempt=fact.attempt)]


def _merged(_state: State, fact: worker.Merged, _now: float) -> Events:
    return [versions.ConsolidationMerged(attempt=fact.attempt, applied=fact.applied, in_place=fact.in_place)]


def _verified(_state: State, fact: worker.Verified, _now: float) -> Events:
    return [versions.ConsolidationVerified(attempt=fact.attempt, difference=fact.difference, tolerance=fact.tolerance)]


def _version_written(state: State, fact: worker.VersionWritten, now: float) -> Events:
    """The version counts and the head stands on it. What it was made of is given up: it is in it, and in its backup."""
    published = versions.VersionPublished(
        attempt=fact.attempt,
        version=fact.version,
        size_bytes=fact.size_bytes,
        manifest_sha256=fact.manifest_sha256,
        made_at=now,
    )
    finished = versions.ConsolidationFinished(attempt=fact.attempt, version=fact.version)
    return [
        published,
        finished,
        *(kinds.CheckpointPruned(checkpoint=each.id, size_bytes=each.size_bytes) for each in state.checkpoints),
    ]


def _yielded(_state: State, fact: worker.Yielded, _now: float) -> Events:
    message = "it was asked to make way"
    return [versions.ConsolidationAborted(attempt=fact.attempt, failure=None, message=message, retry_at=None)]


def _checkpoint_bad(state: State, fact: worker.CheckpointBad, now: float) -> Events:
    aborted = versions.ConsolidationAborted(
        attempt=fact.attempt, failure="checkpoint", message=fact.problem, retry_at=now
    )
    if state.head is None or fact.checkpoint != state.head.id:
        return _failed(state, "code", f"the worker was to merge the head, not {fact.checkpoint}", now)
    return [aborted, *condemned(state, fact.checkpoint, fact.problem)]


def _failed_fact(state: State, fact: worker.Failed, now: float) -> Events:
    return _failed(state, fact.failure, fact.message, now)


def _lose_worker(state: State, command: commands.ReportWorkerLost, now: float) -> Events:
    return _failed(state, command.failure, command.message, now)


def _run_out_of_space(state: State, command: commands.ReportDiskFull, now: float) -> Events:
    return _failed(state, "disk_full", command.message, now, command.wanted_bytes)


def run_out_of_space(state: State, command: commands.ReportDiskFull, now: float) -> Events:
    """The same, whatever runs."""
    return (_run_out_of_space if state.consolidation is not None else of_a_job)(state, command, now)


def _failed(state: State, failure: Failure, message: str, now: float, wanted_bytes: int = 0) -> Events:
    """This attempt is over: try again later, or not."""
    assert state.attempt is not None
    assert state.consolidation_request is not None
    wait: float | None = None
    then: list[AnyEvent] = []
    if failure == "disk_full":
        then = list(out_of_space(state, message, wanted_bytes))
    else:
        again = failure not in ABANDONED_AT_ONCE
        wait = policies.retry_wait_s(state.consolidation_request.failures + 1, state.attempt) if again else None
        if wait is None:
            then = [versions.ConsolidationCancelled(message=f"{message} {_way_out(state, failure)}")]
    aborted = versions.ConsolidationAborted(
        attempt=state.attempt,
        failure=failure,
        message=message,
        retry_at=None if wait is None else now + wait,
    )
    return [aborted, *then]


def _way_out(state: State, failure: Failure) -> str:
    """What can be done about a consolidation that was dropped. What was trained stays a checkpoint in each case."""
    again = "(`keepstep consolidate` asks for it again)"
    if failure != "model" or state.head is None:
        return again
    return (
        f"Nothing is lost: {state.head.id} stays, and loads with transformers and peft. To train on without it, "
        f"`keepstep versions rollback` goes back to {state.base or 'the origin'} {again}"
    )


def interrupted(state: State) -> Events:
    """The daemon of the running consolidation is gone."""
    assert state.attempt is not None
    message = f"the daemon (pid {state.daemon.pid}) was gone"
    return [versions.ConsolidationAborted(attempt=state.attempt, failure=None, message=message, retry_at=None)]


def impossible(state: State, problem: Exception, now: float) -> Events:
    """The worker said what cannot be."""
    return _failed(state, "code", f"the worker reported what cannot be: {problem}", now)


CONSOLIDATION_REQUESTS: Mapping[type, Callable[[State, Any, float], Events]] = {
    commands.RequestConsolidation: _request,
    commands.CancelConsolidation: _cancel,
    commands.StartConsolidation: _start,
}

WHILE_CONSOLIDATING: Mapping[type, Callable[[State, Any, float], Events]] = {
    worker.BackedUp: _backed_up,
    worker.Merged: _merged,
    worker.Verified: _verified,
    worker.VersionWritten: _version_written,
    worker.Yielded: _yielded,
    worker.CheckpointBad: _checkpoint_bad,
    worker.Failed: _failed_fact,
    commands.ReportWorkerLost: _lose_worker,
    commands.ReportDiskFull: _run_out_of_space,
}
"""What the same words mean while a consolidation runs in the place of a job. They name its attempt, or nothing comes of
them."""
