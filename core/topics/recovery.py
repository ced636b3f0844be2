"""Recovery of lost checkpoints: quarantine a damaged one, run its steps again, and compare the results with the first
run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from core import commands
from core.checks import hold, illegal, move_current_job, refuse_unless_idle
from core.errors import Refused
from core.job import Job
from core.structures.step_log import StepLog
from core.tables import DecideTable, Events, EvolveTable
from events import kinds

if TYPE_CHECKING:
    from core.state import State


class ReplayRange(Struct, frozen=True, kw_only=True):
    """Consecutive committed steps of one job, which must run again if the checkpoints after them are lost."""

    job: Job
    step_from: int
    step_to: int
    global_from: int
    global_to: int


class Recovery(Struct, frozen=True, kw_only=True, gc=False):
    """What a step needs to run again."""

    step_log: StepLog = StepLog()
    replay_ranges: tuple[ReplayRange, ...] = ()
    """The steps that were committed after `replayable_from`, the oldest first."""
    quarantined: tuple[str, ...] = ()
    """Damaged checkpoints, by id."""

    @property
    def replayable_from(self) -> int:
        """Every step after this global step can run again. It is the base's own step until the oldest checkpoint after
        the base is pruned; then it is the oldest checkpoint's. Replay ranges and step log reach back to it."""
        return self.step_log.base


# -- commands -------------------------------------------------------------------------------------------------------


def _quarantine_checkpoint(state: State, command: commands.QuarantineCheckpoint, _now: float) -> Events:
    refuse_unless_idle(state)
    if all(command.checkpoint != checkpoint.id for checkpoint in state.head.checkpoints):
        raise Refused(f"{command.checkpoint} is not a checkpoint of the current branch")
    return quarantine(state, command.checkpoint, command.problem)


def quarantine(state: State, checkpoint: str, problem: str) -> Events:
    """Quarantine a checkpoint. If it is the head, its newest ancestor becomes the head, or the base if steps can still
    run again from there; else a person is needed."""
    others = [each.id for each in state.head.checkpoints if each.id != checkpoint]
    if not others and state.recovery.replayable_from > state.head.base_step:
        reason = f"{checkpoint} is damaged ({problem}), and there is no older checkpoint to go back to"
        return hold(state, reason, "put back an undamaged copy of its directory from a backup, then `keepstep resume`")
    return [kinds.CheckpointQuarantined(checkpoint=checkpoint, problem=problem, head=others[-1] if others else None)]


def divergence(state: State, reached: kinds.StepReached) -> Events:
    """An event if a step that ran again did not give the bits of its first run."""
    expected = state.recovery.step_log.at(reached.global_step)
    if expected is None or expected == (reached.loss, reached.grad_norm):
        return []
    return [
        kinds.DivergenceDetected(
            job=reached.job,
            attempt=reached.attempt,
            global_step=reached.global_step,
            step=reached.step,
            loss=reached.loss,
            grad_norm=reached.grad_norm,
            expected_loss=expected[0],
            expected_grad_norm=expected[1],
        )
    ]


DECIDE: DecideTable = {commands.QuarantineCheckpoint: _quarantine_checkpoint}


# -- events ---------------------------------------------------------------------------------------------------------


def _divergence_detected(state: State, event: kinds.DivergenceDetected) -> State:
    job, step_log = move_current_job(state, event), state.recovery.step_log
    if step_log.at(event.global_step) is None:
        raise illegal(event, job.status, f"step {event.global_step} has not been reached before")
    step_log = step_log.replaced(event.global_step, (event.loss, event.grad_norm))
    return replace(state, recovery=replace(state.recovery, step_log=step_log))


def _checkpoint_quarantined(state: State, event: kinds.CheckpointQuarantined) -> State:
    kept, replayable_from = state.head.without(event.checkpoint), state.recovery.replayable_from
    if len(kept) == len(state.head.checkpoints) or state.attempts.current is not None:
        raise illegal(event, state.daemon.status, f"{event.checkpoint} is not an idle checkpoint of this branch")
    if event.head != (kept[-1].id if kept else None):
        raise illegal(event, state.daemon.status, f"{event.head} is not the newest of the other checkpoints")
    if not kept and replayable_from > state.head.base_step:
        raise illegal(event, state.daemon.status, f"the steps up to {replayable_from} cannot be run again")
    after = replace(
        state,
        head=replace(state.head, checkpoints=kept),
        recovery=replace(state.recovery, quarantined=(*state.recovery.quarantined, event.checkpoint)),
    )
    if replayable_from > state.head.base_step:
        after = forgotten(after)  # before anything was pruned, steps can run again from the base
    return run_again(after, after.head.global_step)  # nothing follows if an ancestor was bad: the head stays


EVOLVE: EvolveTable = {
    kinds.DivergenceDetected: _divergence_detected,
    kinds.CheckpointQuarantined: _checkpoint_quarantined,
}


# -- replay ranges --------------------------------------------------------------------------------------------------


def lengthened(state: State, job: Job, event: kinds.CheckpointCommitted) -> tuple[ReplayRange, ...]:
    """The replay ranges with the steps that `event` commits: one more range, or the last one longer."""
    earlier, global_from = state.recovery.replay_ranges, state.head.global_step
    step_from = event.step - (event.global_step - global_from)
    if earlier and earlier[-1].job.id == job.id and earlier[-1].step_to == step_from:
        step_from, global_from = earlier[-1].step_from, earlier[-1].global_from
        earlier = earlier[:-1]
    replay_range = ReplayRange(
        job=job, step_from=step_from, step_to=event.step, global_from=global_from, global_to=event.global_step
    )
    return (*earlier, replay_range)


def forgotten(state: State) -> State:
    """Forget what came before the oldest checkpoint: nothing goes back further any more."""
    oldest, recovery = state.head.checkpoints[0].global_step, state.recovery
    replay_ranges = tuple(each for each in recovery.replay_ranges if each.global_to > oldest)
    step_log = recovery.step_log.between(oldest, recovery.step_log.last)
    return replace(state, recovery=replace(recovery, replay_ranges=replay_ranges, step_log=step_log))


def run_again(state: State, global_step: int) -> State:
    """Start every replay range after `global_step` again, the oldest first.

    Each comes back as a job that ends where the range ended, under the settings and the plan of that time, ahead of the
    jobs in progress. Those keep their place: whatever happens to them later, what was committed is restored first. Only
    a range that already runs again just goes back to an earlier step.
    """
    kept, again = [], []
    for replay_range in state.recovery.replay_ranges:
        if max(replay_range.global_from, state.recovery.replayable_from) < global_step:  # else it cannot run again
            at = min(replay_range.global_to, global_step)
            kept.append(
                replace(replay_range, global_to=at, step_to=replay_range.step_from + at - replay_range.global_from)
            )
        if replay_range.global_to > global_step:
            resume_at = replay_range.step_from + max(0, global_step - replay_range.global_from)
            again.append(
                replace(
                    replay_range.job,
                    status="queued",
                    committed_step=resume_at,
                    until=replay_range.step_to,
                    failures=0,
                    skip_requested=False,
                )
            )
    in_progress = state.training.in_progress
    current = in_progress[0] if in_progress and in_progress[0].until is not None else None
    if current is not None and again and (again[-1].id, again[-1].until) == (current.id, current.committed_step):
        in_progress = (replace(current, committed_step=again.pop().committed_step), *in_progress[1:])
    return replace(
        state,
        recovery=replace(state.recovery, replay_ranges=tuple(kept)),
        training=replace(state.training, in_progress=(*again, *in_progress)),
    )
