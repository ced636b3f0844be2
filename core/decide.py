"""Commands in, events out.

Each function says what may happen now and what happens then; a refusal carries the reason for the person who asked.
What a worker reports is decided on in the same way, in `reports.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from core import commands, consolidate, policies
from core.changes import NOTING, changed_for
from core.commands import AnyCommand
from core.consolidate import CONSOLIDATION_REQUESTS
from core.errors import IllegalEvent, Refused
from core.evaluation import EVALUATED
from core.evolve import evolve
from core.guard import GUARD
from core.job import RUNNING, Job
from core.keep import KEEPING
from core.memory import MEASURING
from core.reports import REPORTS, impossible, refuse_unless_idle
from core.state import State
from events import kinds, places, worker
from events.kinds import AnyEvent

Events = Sequence[AnyEvent]


def decide(state: State, command: AnyCommand, now: float) -> Events:
    """The events that `command` leads to; none if it has nothing to say. `now`: Unix time, seconds.

    Raises Refused with the reason. What a worker says that cannot be is no event: its attempt has failed.
    """
    deciding = _DECISIONS[type(command)]
    if state.consolidation is not None and getattr(command, "attempt", state.attempt) == state.attempt:
        deciding = consolidate.WHILE_CONSOLIDATING.get(type(command), deciding)
    if not isinstance(command, worker.Fact):
        return deciding(state, command, now)
    try:
        events = deciding(state, command, now)
        after = state
        for event in events:
            after = evolve(after, event)
    except IllegalEvent as error:
        if state.consolidation is not None:
            return consolidate.impossible(state, error, now)
        return impossible(state, command, error, now)
    return events


# -- people ---------------------------------------------------------------------------------------------------------


def _create_home(state: State, command: commands.CreateHome, _now: float) -> Events:
    if state.home_id:
        raise Refused("this home has a journal already")
    return [kinds.HomeCreated(home_id=command.home_id, keepstep=command.keepstep)]


def _add_file(state: State, command: commands.AddFile, _now: float) -> Events:
    earlier = state.job(command.job) or state.rejections.get(command.job)
    if earlier is not None and command.again:
        raise Refused(
            f"the bytes of {command.name} are in hand already, as {earlier.name}; they can be learned again once that "
            "has come to its end"
        )
    if earlier is not None or (command.known and not command.again):
        return [kinds.FileDuplicate(job=command.job, name=command.name)]
    return [
        kinds.FileEnqueued(
            job=command.job,
            name=command.name,
            size_bytes=command.size_bytes,
            priority=command.priority,
            again=command.again,
        )
    ]


def _waiting(state: State, job_id: str) -> Job:
    """The job in the queue, or why there is none that a person could do something about."""
    job = state.queue.get(job_id)
    if job is not None:
        return job
    elsewhere = state.job(job_id)
    if elsewhere is None:
        raise Refused(f"no job {job_id[:12]} waits; it has come to its end, or never was here")
    if elsewhere.status == "failed":
        raise Refused(f"{elsewhere.name} has failed and has no place in the queue; `keepstep retry` brings it back")
    raise Refused(f"{elsewhere.name} is in hand, and what is begun is finished first; `keepstep skip` passes it over")


def _move_job(state: State, command: commands.MoveJob, _now: float) -> Events:
    job, queue = _waiting(state, command.job), state.queue
    priority, before = command.priority or job.priority, command.before
    if before is not None:
        other = _waiting(state, before)
        if other.id == job.id:
            raise Refused(f"{job.name} cannot stand before itself")
        if command.priority not in {None, other.priority}:
            raise Refused(f"{other.name} has priority {other.priority}, so nothing of another stands before it")
        priority = other.priority
    elif command.first:
        before = queue.lane(priority).front
    elif priority == job.priority:
        raise Refused(f"{job.name} has priority {priority} already")
    if priority == job.priority and before in {job.id, queue.after(job.id)}:
        raise Refused(f"{job.name} stands there already")
    return [places.JobMoved(job=job.id, priority=priority, before=before)]


def _hold_job(state: State, command: commands.HoldJob, _now: float) -> Events:
    job = _waiting(state, command.job)
    if job.status == "held":
        raise Refused(f"{job.name} is held already; `keepstep queue release` lets it have its turn")
    return [places.JobHeld(job=job.id)]


def _release_job(state: State, command: commands.ReleaseJob, _now: float) -> Events:
    job = _waiting(state, command.job)
    if job.status != "held":
        raise Refused(f"{job.name} is not held")
    return [places.JobReleased(job=job.id)]


def _remove_job(state: State, command: commands.RemoveJob, _now: float) -> Events:
    job = state.queue.get(command.job) or state.failed.get(command.job) or _waiting(state, command.job)
    if job.begun:
        advice = "it stays" if job.status == "failed" else "`keepstep skip` ends it and keeps what it has learned"
        raise Refused(f"{job.name} has been learned in part, and weights hold that: it cannot be taken back; {advice}")
    return [places.JobRemoved(job=job.id, name=job.name, keeps_data=job.trained_from)]


def _pause(state: State, _command: commands.Pause, _now: float) -> Events:
    if state.daemon.status in {"paused", "pausing", "off_paused", "stopping_paused"}:
        raise Refused("keepstep is paused already; `keepstep resume` goes on")
    return [kinds.PauseRequested()]


def _resume(state: State, _command: commands.Resume, _now: float) -> Events:
    if state.daemon.status not in {"paused", "pausing", "off_paused", "stopping_paused"}:
        raise Refused("keepstep is not paused")
    return [kinds.Resumed()]


def _stop(state: State, command: commands.Stop, _now: float) -> Events:
    if state.daemon.status in {"off", "off_paused"} or not command.alive:
        raise Refused("no daemon runs in this home, so there is nothing to stop")
    if state.daemon.status in {"stopping", "stopping_paused"}:
        raise Refused("the daemon is stopping already")
    return [kinds.StopRequested()]


def _skip(state: State, command: commands.Skip, _now: float) -> Events:
    job = state.current if command.job is None else state.job(command.job)
    if job is None:
        raise Refused("no job is in hand" if command.job is None else f"no job {command.job[:12]} waits or runs")
    if job.skip_requested:
        raise Refused(f"{job.name} is being skipped already")
    if job.until is not None:
        raise Refused(f"{job.name} is run again to restore committed steps; it cannot be skipped")
    if job.status == "failed":
        raise Refused(f"{job.name} has failed; there is nothing to skip")
    if job.status in RUNNING:
        return [kinds.JobSkipRequested(job=job.id)]
    if job is not state.current and state.queue.get(job.id) is None:
        raise Refused(f"{job.name} waits behind steps that are run again; skip it once they are done")
    return [kinds.JobSkipped(job=job.id)]


def _retry(state: State, command: commands.Retry, _now: float) -> Events:
    if state.failed.get(command.job) is None:
        raise Refused(f"job {command.job[:12]} has not failed")
    return [kinds.JobRetried(job=command.job)]


def _prune_checkpoints(state: State, command: commands.PruneCheckpoints, _now: float) -> Events:
    abandoned = policies.checkpoints_to_prune(state.checkpoints, command.keep)
    if not abandoned:
        raise Refused(f"there is nothing to prune: {len(state.checkpoints)} checkpoints are kept, the head among them")
    return [kinds.CheckpointPruned(checkpoint=each.id, size_bytes=each.size_bytes) for each in abandoned]


# -- the daemon -----------------------------------------------------------------------------------------------------


def _start_daemon(state: State, command: commands.StartDaemon, _now: float) -> Events:
    events: list[AnyEvent] = []
    if state.consolidation is not None:
        events.extend(consolidate.interrupted(state))
    elif state.attempt is not None and state.current is not None:
        reason = f"the daemon (pid {state.daemon.pid}) was gone"
        events.append(kinds.AttemptInterrupted(job=state.current.id, attempt=state.attempt, reason=reason))
        if state.current.skip_requested:
            events.append(kinds.JobSkipped(job=state.current.id))
    events.append(
        kinds.DaemonStarted(
            pid=command.pid,
            process_started_at=command.process_started_at,
            boot_id=command.boot_id,
            host=command.host,
            keepstep=command.keepstep,
        )
    )
    return events


def _leave_home(state: State, command: commands.StopDaemon, _now: float) -> Events:
    refuse_unless_idle(state)
    return [kinds.DaemonStopped(reason=command.reason)]


def _start_attempt(state: State, command: commands.StartAttempt, _now: float) -> Events:
    job = state.current or state.queue.front()
    if job is None or job.id != command.job or state.daemon.status != "idle":
        raise Refused(f"job {command.job[:12]} is not the next one")
    if state.full is not None:
        raise Refused(f"nothing is begun without room on the disk: {state.full.message}")
    if state.short is not None:
        raise Refused("nothing is begun while memory is short")
    settings = policies.with_sources(command.settings, state.trained, job.id)
    if job.begun and job.settings is not None:
        settings = job.settings
    conflict = policies.meaning_conflict(state.meaning, settings, learning=state.head is not None)
    if conflict is not None:
        return [
            kinds.DaemonHeld(
                reason=f"keepstep.toml does not fit what has been learned: {conflict}",
                advice="set the old value again and run `keepstep resume`, or begin another home for the new one",
            )
        ]
    started = kinds.AttemptStarted(job=job.id, attempt=state.attempts + 1, settings=settings)
    return [started] if job.begun else [*changed_for(state, job.id, settings), started]


def _hold_work(state: State, command: commands.HoldWork, _now: float) -> Events:
    refuse_unless_idle(state)
    if state.hold is not None and state.hold.reason == command.reason:
        return []
    return [kinds.DaemonHeld(reason=command.reason, advice=command.advice)]


def _record_swept(_state: State, command: commands.RecordSwept, _now: float) -> Events:
    return [kinds.PartialSwept(path=command.path, size_bytes=command.size_bytes)]


def _record_rejected_moved(state: State, command: commands.RecordRejectedMoved, _now: float) -> Events:
    if state.rejections.get(command.job) is None:
        return []
    return [kinds.RejectedFileMoved(job=command.job, path=command.path)]


_DECISIONS: Mapping[type, Callable[[State, Any, float], Events]] = {
    commands.CreateHome: _create_home,
    commands.StartDaemon: _start_daemon,
    commands.StopDaemon: _leave_home,
    commands.AddFile: _add_file,
    commands.MoveJob: _move_job,
    commands.HoldJob: _hold_job,
    commands.ReleaseJob: _release_job,
    commands.RemoveJob: _remove_job,
    commands.Pause: _pause,
    commands.Resume: _resume,
    commands.Stop: _stop,
    commands.Skip: _skip,
    commands.Retry: _retry,
    commands.PruneCheckpoints: _prune_checkpoints,
    commands.StartAttempt: _start_attempt,
    commands.HoldWork: _hold_work,
    commands.RecordSwept: _record_swept,
    commands.RecordRejectedMoved: _record_rejected_moved,
    **REPORTS,
    **GUARD,
    **EVALUATED,
    **CONSOLIDATION_REQUESTS,
    **KEEPING,
    **MEASURING,
    **NOTING,
}
