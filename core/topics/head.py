"""The head: what the next step starts from, and how a person moves it to a version, a checkpoint, a backup or the
origin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from core import commands
from core.checks import illegal
from core.effect import Effect
from core.errors import Refused
from core.job import Evaluation, Job
from core.structures.maps import Map
from core.structures.step_log import StepLog
from core.tables import DecideTable, Events, EvolveTable
from core.values import Checkpoint, DetachedCheckpoint, WeightSettings
from events import kinds
from events.kinds import AnyEvent

if TYPE_CHECKING:
    from core.state import State


class Head(Struct, frozen=True, kw_only=True, gc=False):
    """What the next step starts from, and the checkpoints that the head can go back to."""

    base: str | None = None
    """The version that the weights are trained from; None: the origin."""
    base_step: int = 0
    """The global step of the base."""
    checkpoints: tuple[Checkpoint, ...] = ()
    """The current branch: what was trained from the base, the oldest first."""
    weight_settings: WeightSettings | None = None
    """What the weights of the head depend on; None: nothing is trained yet."""
    detached: tuple[DetachedCheckpoint, ...] = ()
    pending_restore: str | None = None
    """The backup that the head must be restored from before work continues."""

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint of the branch; None: the next step starts from the base itself."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def global_step(self) -> int:
        """The last committed step."""
        return self.checkpoints[-1].global_step if self.checkpoints else self.base_step

    def without(self, checkpoint: str) -> tuple[Checkpoint, ...]:
        """The other checkpoints of the branch."""
        return tuple(each for each in self.checkpoints if each.id != checkpoint)

    def branch(self) -> tuple[DetachedCheckpoint, ...]:
        """The checkpoints of the branch, in the form that they have when the head moves away from them."""
        if not self.checkpoints:
            return ()
        assert self.weight_settings is not None  # something was committed
        return tuple(
            DetachedCheckpoint(base=self.base, checkpoint=each, weight_settings=self.weight_settings)
            for each in self.checkpoints
        )


class RestoreCheckpoint(Effect, frozen=True, kw_only=True):
    """Copy the head from its backup to its place, unless it is there; then `RecordRestored`."""

    backup: str
    checkpoint: str


def find_checkpoint(state: State, checkpoint: str) -> DetachedCheckpoint | None:
    """The checkpoint of this id, on the branch or detached; None: it was deleted."""
    every = (*state.head.detached, *state.head.branch())
    return next((each for each in every if each.checkpoint.id == checkpoint), None)


def nothing_trained(state: State) -> str:
    """A clause about a head that has no checkpoint."""
    return f"nothing was trained since {state.head.base or 'the origin'}"


# -- commands -------------------------------------------------------------------------------------------------------


def _move_head(state: State, command: commands.MoveHead, _now: float) -> Events:
    """To a version, the origin, a detached checkpoint, or the content of a backup."""
    if state.attempts.current is not None:
        raise Refused("an attempt is running; `keepstep pause` first, or wait")
    if state.training.in_progress:
        name = state.training.in_progress[0].name
        raise Refused(f"{name} is partly trained: let it end, or `keepstep skip` it, and then try again")
    backup = state.retention.backup(command.backup)
    if command.backup is not None and backup is None:
        raise Refused(f"there is no backup {command.backup}")
    base, checkpoint = command.version, command.checkpoint
    if backup is not None:
        base, checkpoint = backup.held.base, backup.held.checkpoint.id
    elif checkpoint is not None:
        held = next((each for each in state.head.detached if each.checkpoint.id == checkpoint), None)
        if held is None:
            raise Refused(f"there is no detached checkpoint {checkpoint}: `keepstep versions list --all`")
        base = held.base
    if base is not None and state.retention.version(base) is None:
        raise Refused(f"there is no version {base}" + (f", which {checkpoint} was trained from" if checkpoint else ""))
    if (base, checkpoint) == (state.head.base, state.head.checkpoint.id if state.head.checkpoint is not None else None):
        raise Refused("the head is already there")
    in_place = checkpoint is not None and checkpoint in {each.checkpoint.id for each in state.head.detached}
    events: list[AnyEvent] = []
    if state.consolidation.request is not None:
        events.append(kinds.ConsolidationCancelled(message="the head was moved"))
    from_backup = command.backup if backup is not None and not in_place else None
    events.append(kinds.HeadMoved(version=base, checkpoint=checkpoint, backup=from_backup))
    # The newest checkpoint of the branch is enough to go back to it.
    older = [each for each in state.head.checkpoints[:-1] if each.id != checkpoint]
    return [*events, *(kinds.CheckpointPruned(checkpoint=each.id, size_bytes=each.size_bytes) for each in older)]


def _roll_back(state: State, _command: commands.RollBack, now: float) -> Events:
    """To the version that the head was trained from; if nothing was trained since, to the version before it."""
    target = state.head.base
    if state.head.checkpoint is None:
        version = state.retention.version(state.head.base)
        if version is None:
            raise Refused("the head is the origin: there is nothing to roll back")
        target = version.parent
    return _move_head(state, commands.MoveHead(version=target), now)


def _record_restored(state: State, _command: commands.RecordRestored, _now: float) -> Events:
    if state.head.pending_restore is None or state.head.checkpoint is None:
        return []
    return [kinds.CheckpointRestored(checkpoint=state.head.checkpoint.id)]


DECIDE: DecideTable = {
    commands.MoveHead: _move_head,
    commands.RollBack: _roll_back,
    commands.RecordRestored: _record_restored,
}


# -- events ---------------------------------------------------------------------------------------------------------


def _head_moved(state: State, event: kinds.HeadMoved) -> State:
    if state.attempts.current is not None or state.training.in_progress:
        raise illegal(event, state.daemon.status, "a job is in progress")
    version = state.retention.version(event.version)
    if event.version is not None and version is None:
        raise illegal(event, state.daemon.status, f"there is no version {event.version}")
    held = None
    if event.checkpoint is not None:
        held = _target(state, event)
        if held.base != event.version:
            raise illegal(event, state.daemon.status, f"{event.checkpoint} was not trained from {event.version}")
    # A checkpoint that is still to be restored exists in its backup alone.
    branch = state.head.branch() if state.head.pending_restore is None else ()
    detached = (*state.head.detached, *branch)
    settings = held.weight_settings if held is not None else version.weight_settings if version is not None else None
    head = Head(
        base=event.version,
        base_step=version.global_step if version is not None else 0,
        checkpoints=(held.checkpoint,) if held is not None else (),
        weight_settings=settings,
        detached=tuple(each for each in detached if held is None or each.checkpoint.id != held.checkpoint.id),
        pending_restore=event.backup,
    )
    recovery = replace(state.recovery, replay_ranges=(), step_log=StepLog(head.global_step))
    moved = replace(
        state,
        head=head,
        recovery=recovery,
        evaluations=state.evaluations.released(event.version),  # a person decided
        replay_share=state.replay_share.moved(),
        self_correction=state.self_correction.without_waiting(),
    )
    return _with_jobs_restarted(moved)


def _target(state: State, event: kinds.HeadMoved) -> DetachedCheckpoint:
    if event.backup is not None:
        backup = state.retention.backup(event.backup)
        if backup is None or backup.held.checkpoint.id != event.checkpoint:
            raise illegal(event, state.daemon.status, f"{event.backup} is no backup of {event.checkpoint}")
        return backup.held
    held = find_checkpoint(state, event.checkpoint) if event.checkpoint is not None else None
    if held is None:
        raise illegal(event, state.daemon.status, f"{event.checkpoint} is not a detached checkpoint")
    return held


def _with_jobs_restarted(state: State) -> State:
    """Restart the waiting and failed jobs that were partly trained: the head no longer holds that part."""
    queue = state.queue
    for job in queue:
        if job.committed_step:
            queue = queue.replaced(_restarted(job))
    failed = Map({key: _restarted(job) for key, job in state.outcomes.failed.items()})
    return replace(state, queue=queue, outcomes=replace(state.outcomes, failed=failed))


def _restarted(job: Job) -> Job:
    return replace(job, committed_step=0, evaluation=Evaluation())


def _checkpoint_restored(state: State, event: kinds.CheckpointRestored) -> State:
    head = state.head
    if head.pending_restore is None or head.checkpoint is None or head.checkpoint.id != event.checkpoint:
        raise illegal(event, state.daemon.status, f"{event.checkpoint} was not to be restored")
    quarantined = tuple(name for name in state.recovery.quarantined if name != event.checkpoint)
    return replace(  # the copy under that name is good
        state,
        head=replace(head, pending_restore=None),
        recovery=replace(state.recovery, quarantined=quarantined),
    )


EVOLVE: EvolveTable = {
    kinds.HeadMoved: _head_moved,
    kinds.CheckpointRestored: _checkpoint_restored,
}


# -- effects --------------------------------------------------------------------------------------------------------


def restores(state: State) -> tuple[RestoreCheckpoint, ...]:
    """The checkpoint that must be restored before anything starts."""
    if state.head.pending_restore is None or state.head.checkpoint is None:
        return ()
    return (RestoreCheckpoint(backup=state.head.pending_restore, checkpoint=state.head.checkpoint.id),)
