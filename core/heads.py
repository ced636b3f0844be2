"""Consolidations, versions, backups, and what the head stands on: events in, state out. A part of `evolve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from core.job import Evaluation, Job
from core.maps import Map
from core.moves import daemon_moved, illegal
from core.state import Progress, State, StepLog
from core.transitions import CONSOLIDATION
from core.versions import Backup, Checkpoint, Consolidation, ConsolidationRequest, DetachedCheckpoint, Meaning, Version
from events import versions
from events.codec import kind_of
from events.event import Event
from events.values import version_id

# -- a consolidation ------------------------------------------------------------------------------------------------


def _requested(state: State, event: versions.ConsolidationRequested) -> State:
    if state.consolidation_request is not None:
        raise illegal(event, "wanted", "one is wanted already")
    consolidation_request = ConsolidationRequest(description=event.description, after_current=event.after_current)
    return replace(
        state, consolidation_request=consolidation_request, night=state.night if event.night is None else event.night
    )


def _dropped(state: State, event: versions.ConsolidationCancelled) -> State:
    if state.consolidation_request is None or state.consolidation is not None:
        raise illegal(event, "running" if state.consolidation else "not wanted")
    return replace(state, consolidation_request=None)


def _started(state: State, event: versions.ConsolidationStarted) -> State:
    if state.consolidation_request is None or state.begun:  # that nothing else runs, the daemon's table says
        raise illegal(event, state.daemon.status, "it is not wanted, or a job is in hand")
    if event.attempt != state.attempts + 1:
        raise illegal(event, "wanted", f"attempt {event.attempt} does not follow attempt {state.attempts}")
    head = state.head
    if head is None or (event.checkpoint, event.parent) != (head.id, state.base):
        raise illegal(event, "wanted", f"{event.checkpoint} beside {event.parent} is not the head")
    if event.version != version_id(state.versions_made + 1):
        raise illegal(event, "wanted", f"{event.version} is not the next version")
    return replace(
        daemon_moved(state, event),
        attempt=event.attempt,
        attempts=event.attempt,
        reached=Progress(state.global_step),
        repaired=False,
        consolidation=Consolidation(
            status="started",
            version=event.version,
            parent=event.parent,
            checkpoint=event.checkpoint,
            backup=event.backup,
        ),
    )


def _moved(state: State, event: Any) -> Consolidation:
    """The consolidation that runs, moved on by its table."""
    running = state.consolidation
    if running is None or event.attempt != state.attempt:
        raise illegal(event, "no consolidation", f"attempt {event.attempt} is none, or not the running one")
    status = CONSOLIDATION[running.status].get(kind_of(event))
    if status is None:
        raise illegal(event, running.status)
    return replace(running, status=status)


def _backed_up(state: State, event: versions.ConsolidationBackedUp) -> State:
    running = _moved(state, event)
    if state.backup(running.backup) is None:
        raise illegal(event, "started", f"{running.backup} has not been created")
    return replace(state, consolidation=running)


def _merged(state: State, event: versions.ConsolidationMerged) -> State:
    running = _moved(state, event)
    return replace(state, consolidation=replace(running, applied=event.applied, in_place=event.in_place))


def _verified(state: State, event: versions.ConsolidationVerified) -> State:
    running = _moved(state, event)
    return replace(state, consolidation=replace(running, difference=event.difference))


def _published(state: State, event: versions.VersionPublished) -> State:
    running = _moved(state, event)
    if event.version != running.version:
        raise illegal(event, "verified", f"{running.version} is being made")
    assert state.consolidation_request is not None
    version = Version(
        id=event.version,
        parent=running.parent,
        checkpoint=running.checkpoint,
        global_step=state.global_step,
        description=state.consolidation_request.description,
        made_at=event.made_at,
        size_bytes=event.size_bytes,
        manifest_sha256=event.manifest_sha256,
        meaning=_meaning(state),
        applied=running.applied,
        in_place=running.in_place,
        difference=running.difference,
    )
    return replace(
        state,
        consolidation=running,
        versions=(*state.versions, version),
        versions_made=state.versions_made + 1,
    )


def _finished(state: State, event: versions.ConsolidationFinished) -> State:
    _moved(state, event)
    step = state.global_step
    return replace(
        daemon_moved(state, event, "attempt_ended"),
        attempt=None,
        reached=Progress(),
        consolidation=None,
        consolidation_request=None,
        base=event.version,
        base_step=step,
        checkpoints=(),
        left=(*state.left, *_of_the_branch(state)),
        replay_ranges=(),
        trail=StepLog(step),
    )


def _aborted(state: State, event: versions.ConsolidationAborted) -> State:
    _moved(state, event)
    assert state.consolidation_request is not None
    failures = state.consolidation_request.failures + (event.retry_at is not None)
    return replace(
        daemon_moved(state, event, "attempt_ended"),
        attempt=None,
        reached=Progress(),
        consolidation=None,
        consolidation_request=replace(state.consolidation_request, failures=failures, retry_at=event.retry_at),
    )


# -- the head -------------------------------------------------------------------------------------------------------


def _head_moved(state: State, event: versions.HeadMoved) -> State:
    if state.attempt is not None or state.begun:
        raise illegal(event, state.daemon.status, "something is in hand")
    version = state.version(event.version)
    if event.version is not None and version is None:
        raise illegal(event, state.daemon.status, f"there is no version {event.version}")
    held = None
    if event.checkpoint is not None:
        held = _held(state, event)
        if held.base != event.version:
            raise illegal(event, state.daemon.status, f"{event.checkpoint} was not trained beside {event.version}")
    base_step = version.global_step if version is not None else 0
    left = tuple(each for each in state.left if held is None or each.checkpoint.id != held.checkpoint.id)
    # What was to be brought back and is not in its place yet stays in its backup alone.
    branch = _of_the_branch(state) if state.fetch is None else ()
    after = [each for each in branch if held is None or each.checkpoint.id != held.checkpoint.id]
    meaning = held.meaning if held is not None else version.meaning if version is not None else None
    moved = replace(
        state,
        base=event.version,
        base_step=base_step,
        checkpoints=(held.checkpoint,) if held is not None else (),
        left=(*left, *after),
        meaning=meaning,
        replay_ranges=(),
        fetch=event.backup,
    )
    return _with_jobs_anew(replace(moved, trail=StepLog(moved.global_step)))


def _held(state: State, event: versions.HeadMoved) -> DetachedCheckpoint:
    if event.backup is not None:
        backup = state.backup(event.backup)
        if backup is None or backup.held.checkpoint.id != event.checkpoint:
            raise illegal(event, state.daemon.status, f"{event.backup} is no backup of {event.checkpoint}")
        return backup.held
    held = kept_as(state, event.checkpoint) if event.checkpoint is not None else None
    if held is None:
        raise illegal(event, state.daemon.status, f"{event.checkpoint} was not left behind")
    return held


def kept_as(state: State, checkpoint: str) -> DetachedCheckpoint | None:
    """The checkpoint of this name, on the branch or left behind, with what it belongs to; None: it was given up."""
    every = (*state.left, *_of_the_branch(state))
    return next((each for each in every if each.checkpoint.id == checkpoint), None)


def _of_the_branch(state: State) -> tuple[DetachedCheckpoint, ...]:
    if not state.checkpoints:
        return ()
    return tuple(
        DetachedCheckpoint(base=state.base, checkpoint=each, meaning=_meaning(state)) for each in state.checkpoints
    )


def _with_jobs_anew(state: State) -> State:
    """Jobs that were learned in part and wait: that part is not in the head any more, so they begin anew."""
    queue = state.queue
    for job in queue:
        if job.committed_step:
            queue = queue.replaced(_anew(job))
    failed = {key: _anew(job) for key, job in state.failed.items()}
    return replace(state, queue=queue, failed=Map(failed))


def _anew(job: Job) -> Job:
    return replace(job, committed_step=0, evaluation=Evaluation())


def _restored(state: State, event: versions.CheckpointRestored) -> State:
    if state.fetch is None or state.head is None or state.head.id != event.checkpoint:
        raise illegal(event, state.daemon.status, f"{event.checkpoint} was not to be restored")
    quarantined = tuple(name for name in state.quarantined if name != event.checkpoint)
    return replace(state, fetch=None, quarantined=quarantined)  # the copy under that name is good


def _meaning(state: State) -> Meaning:
    assert state.meaning is not None  # something was committed
    return state.meaning


# -- versions and backups given up, backups made --------------------------------------------------------------------


def _version_deleted(state: State, event: versions.VersionDeleted) -> State:
    if state.version(event.version) is None or event.version == state.base:
        raise illegal(event, state.daemon.status, f"{event.version} is not a version that can be given up")
    return replace(state, versions=tuple(each for each in state.versions if each.id != event.version))


def _backup_created(state: State, event: versions.BackupCreated) -> State:
    if state.backup(event.backup) is not None:
        raise illegal(event, state.daemon.status, f"there is a backup {event.backup} already")
    held = kept_as(state, event.checkpoint)
    meaning = held.meaning if held is not None else state.meaning  # given up since: the branch has one meaning
    if meaning is None:
        raise illegal(event, state.daemon.status, f"{event.checkpoint} was given up")
    checkpoint = Checkpoint(
        id=event.checkpoint,
        job=event.job,
        attempt=event.attempt,
        global_step=event.global_step,
        step=event.step,
        parent=None,
        size_bytes=event.checkpoint_bytes,
        manifest_sha256=event.checkpoint_sha256,
    )
    backup = Backup(
        id=event.backup,
        reason=event.reason,
        held=DetachedCheckpoint(base=event.version, checkpoint=checkpoint, meaning=meaning),
        size_bytes=event.size_bytes,
        manifest_sha256=event.manifest_sha256,
        made_at=event.made_at,
    )
    return replace(state, backups=(*state.backups, backup), backups_made=state.backups_made + 1)


def _backup_deleted(state: State, event: versions.BackupDeleted) -> State:
    if state.backup(event.backup) is None or event.backup == state.fetch:
        raise illegal(event, state.daemon.status, f"{event.backup} is not a backup that can be given up")
    return replace(state, backups=tuple(each for each in state.backups if each.id != event.backup))


HEADS: Mapping[type[Event], Callable[[State, Any], State]] = {
    versions.ConsolidationRequested: _requested,
    versions.ConsolidationCancelled: _dropped,
    versions.ConsolidationStarted: _started,
    versions.ConsolidationBackedUp: _backed_up,
    versions.ConsolidationMerged: _merged,
    versions.ConsolidationVerified: _verified,
    versions.VersionPublished: _published,
    versions.ConsolidationFinished: _finished,
    versions.ConsolidationAborted: _aborted,
    versions.HeadMoved: _head_moved,
    versions.CheckpointRestored: _restored,
    versions.VersionDeleted: _version_deleted,
    versions.BackupCreated: _backup_created,
    versions.BackupDeleted: _backup_deleted,
}
