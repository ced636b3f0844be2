"""Which steps must be run again if checkpoints are lost, by which job, in which order; and which never will be."""

from __future__ import annotations

from msgspec.structs import replace

from core.job import Job
from core.state import ReplayRange, State
from events.kinds import CheckpointCommitted


def lengthened(state: State, job: Job, event: CheckpointCommitted) -> tuple[ReplayRange, ...]:
    """The stretches of `state` with the steps that `event` commits: one more, or the last one longer."""
    earlier, global_from = state.replay_ranges, state.global_step
    step_from = event.step - (event.global_step - global_from)
    if earlier and earlier[-1].job.id == job.id and earlier[-1].step_to == step_from:
        step_from, global_from = earlier[-1].step_from, earlier[-1].global_from
        earlier = earlier[:-1]
    replay_range = ReplayRange(
        job=job, step_from=step_from, step_to=event.step, global_from=global_from, global_to=event.global_step
    )
    return (*earlier, replay_range)


def forgotten(state: State) -> State:
    """`state` without what lies behind its oldest checkpoint: nothing goes back further than that one any more."""
    oldest = state.checkpoints[0].global_step
    return replace(
        state,
        replay_ranges=tuple(replay_range for replay_range in state.replay_ranges if replay_range.global_to > oldest),
        trail=state.trail.between(oldest, state.trail.base + state.trail.length),
    )


def run_again(state: State, global_step: int) -> State:
    """`state` with every stretch that was learned after `global_step` in hand once more, oldest first.

    Each comes back as a job of its own that ends where the stretch did, under the settings and the plan it had then,
    ahead of the jobs in hand. Those keep their place: whatever becomes of them later, what was committed is restored
    first. Only a stretch that is being run again already just goes back to an earlier step.
    """
    kept, again = [], []
    for replay_range in state.replay_ranges:
        if max(replay_range.global_from, state.past_from) < global_step:  # what cannot be run again is not remembered
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
    begun = state.begun
    current = begun[0] if begun and begun[0].until is not None else None
    if current is not None and again and (again[-1].id, again[-1].until) == (current.id, current.committed_step):
        begun = (replace(current, committed_step=again.pop().committed_step), *begun[1:])
    return replace(state, replay_ranges=tuple(kept), begun=(*again, *begun))
