"""Events in, state out: what the tables do not show. Every refusal leaves the state as it was."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from core import commands
from core.errors import IllegalEvent
from core.evolve import EVOLVE, evolve
from core.state import State
from core.structures.situations import DiskFull
from events import kinds
from events.kinds import EVENT_TYPES, AnyEvent
from tests.core.simulated_worker import plan
from tests.core.world import World, job_id, seen, settings


def training(*, steps_total: int = 6, reached: int = 3) -> World:
    """A world whose first job has reached some steps and committed the first two."""
    world = World()
    world.start()
    world.add(steps_total)
    world.run_until(kinds.StepReached, reached)
    return world


def last(world: World, kind: type[AnyEvent]) -> Any:
    """The last event of a kind."""
    return next(event for event in reversed(world.journal) if isinstance(event, kind))


def refuses(state: State, event: AnyEvent, reason: str) -> None:
    """`event` is illegal for that reason, and `state` is what it was."""
    before = seen(state)
    with pytest.raises(IllegalEvent, match=reason):
        evolve(state, event)
    assert seen(state) == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attempt": 9}, "attempt 9 is not training"),
        ({"job": job_id(9)}, "not the current one"),
        ({"global_step": 9}, "does not follow"),
        ({"step": 9}, "does not follow"),
    ],
)
def test_a_step_follows_the_one_before_it(change: dict[str, Any], reason: str) -> None:
    """In the running attempt, of the current job, counted without gaps in both ways."""
    world = training()
    step = last(world, kinds.StepReached)
    fitting = replace(step, global_step=step.global_step + 1, step=step.step + 1)
    evolve(world.state, fitting)
    refuses(world.state, replace(fitting, **change), reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"parent": None}, "its parent is None"),
        ({"global_step": 2, "step": 2}, "not among the steps reached"),
        ({"global_step": 9, "step": 9}, "not among the steps reached"),
        ({"step": 2}, "is not step 3"),
        ({"job": job_id(9)}, "not the current one"),
        ({"attempt": 9}, "not the running one"),
    ],
)
def test_a_commit_follows_the_head(change: dict[str, Any], reason: str) -> None:
    """Its parent is the head, its steps were reached since, and both counts agree."""
    world = training()
    commit = last(world, kinds.CheckpointCommitted)
    fitting = replace(commit, checkpoint="step-00000003-attempt-0001", global_step=3, step=3, parent=commit.checkpoint)
    assert evolve(world.state, fitting).head.global_step == 3
    refuses(world.state, replace(fitting, **change), reason)


def test_an_illegal_event_after_a_legal_one_leaves_the_older_state_whole() -> None:
    """States share the list of the trail; looking ahead and failing shows in none of the older ones."""
    world = training()
    state, step = world.state, last(world, kinds.StepReached)
    before = seen(state)
    ahead = evolve(state, replace(step, global_step=4, step=4, loss=0.125))
    with pytest.raises(IllegalEvent):
        evolve(ahead, replace(step, global_step=9, step=9))
    assert seen(state) == before
    again = evolve(state, replace(step, global_step=4, step=4, loss=0.25))
    assert again.recovery.step_log.at(4) == (0.25, step.grad_norm)
    assert ahead.recovery.step_log.at(4) == (0.125, step.grad_norm)


def test_a_checkpoint_of_the_branch_is_quarantined_and_only_when_idle() -> None:
    """And the newest of those that are left is the head, no other."""
    world = training(reached=5)
    first, second = world.state.head.checkpoints
    head = kinds.CheckpointQuarantined(checkpoint=second.id, problem="rot", head=first.id)
    ancestor = kinds.CheckpointQuarantined(checkpoint=first.id, problem="rot", head=second.id)
    refuses(world.state, head, "not an idle checkpoint of this branch")
    refuses(world.state, ancestor, "not an idle checkpoint of this branch")
    world.start()
    refuses(world.state, replace(head, checkpoint="step-00000009-attempt-0009"), "checkpoint of this branch")
    refuses(world.state, replace(head, head=None), "not the newest")
    refuses(world.state, replace(ancestor, head=first.id), "not the newest")
    refuses(world.state, replace(ancestor, head=None), "not the newest")
    assert evolve(world.state, head).head.global_step == 2
    after = evolve(world.state, ancestor)
    refuses(after, ancestor, "checkpoint of this branch")
    assert after == replace(
        world.state,
        head=replace(world.state.head, checkpoints=(second,)),
        recovery=replace(world.state.recovery, quarantined=(first.id,)),
    )


def test_nothing_falls_back_before_what_was_pruned() -> None:
    """The steps before the oldest kept checkpoint cannot be run again, so the last one is never pruned."""
    world = World()
    world.config = settings(keep=1)
    world.start()
    world.add(6)
    world.run()
    (only,) = world.state.head.checkpoints
    event = kinds.CheckpointQuarantined(checkpoint=only.id, problem="rot", head=None)
    refuses(world.state, event, "cannot be run again")


def test_the_head_and_what_is_not_there_are_not_pruned() -> None:
    """Retention prunes what is before the head."""
    world = training(reached=5)
    first, second = world.state.head.checkpoints
    refuses(world.state, kinds.CheckpointPruned(checkpoint=second.id, size_bytes=1), "before the head")
    after = evolve(world.state, kinds.CheckpointPruned(checkpoint=first.id, size_bytes=1))
    refuses(after, kinds.CheckpointPruned(checkpoint=first.id, size_bytes=1), "before the head")


def test_attempts_are_numbered_without_gaps() -> None:
    """Over the whole life of the home."""
    world = World()
    world.start()
    job = world.add(2)
    refuses(world.state, kinds.AttemptStarted(job=job, attempt=2, settings=settings()), "does not follow")
    refuses(world.state, kinds.AttemptStarted(job=job_id(9), attempt=1, settings=settings()), "not the next one")


def before_last(world: World, kind: type[AnyEvent]) -> tuple[State, Any]:
    """The last event of a kind, and the state that it came to."""
    at = max(index for index, event in enumerate(world.journal) if isinstance(event, kind))
    state = State()
    for event in world.journal[:at]:
        state = evolve(state, event)
    return state, world.journal[at]


@pytest.mark.parametrize("change", [{"global_step": 1}, {"step": 1}, {"global_step": 3, "step": 3}])
def test_training_starts_at_the_head(change: dict[str, Any]) -> None:
    """Neither before what is committed nor after it."""
    world = training()
    world.start()
    world.run_until(kinds.TrainingStarted)
    state, started = before_last(world, kinds.TrainingStarted)
    assert (started.global_step, started.step) == (2, 2)
    refuses(state, replace(started, **change), "is not the head")


def test_a_file_is_in_progress_once() -> None:
    """Waiting, begun or failed: its bytes are not accepted again; nor while a rejection of them is open."""
    world = World()
    world.start()
    job = world.add(0)
    again = last(world, kinds.FileEnqueued)
    refuses(world.state, again, "already in progress")
    world.run_until(kinds.JobRejected)
    refuses(world.state, again, "still has to be moved")
    world.run()
    assert evolve(world.state, again).queue.get(job) is not None


def test_what_waits_for_a_person_counts_as_no_failure_of_the_job() -> None:
    """Five broken disks do not make a bad file."""
    world = World()
    world.start()
    job = world.add(2)
    for _ in range(6):
        world.turn()
        world.fails("storage")
        world.execute(commands.Resume())
    current = world.state.training.current
    assert current is not None
    assert (current.id, current.failures) == (job, 0)


def test_a_commit_clears_the_failures() -> None:
    """Only failures without progress give a job up."""
    world = World()
    world.config = settings(every_steps=1)
    world.start()
    world.add(9)
    for _ in range(7):
        world.run_until(kinds.CheckpointCommitted)
        world.lose_worker()
    assert not len(world.state.outcomes.failed)


def test_uncommitted_steps_under_other_settings_are_no_divergence() -> None:
    """Before the first commit the config may change; what was reached under the old one is forgotten."""
    world = World()
    world.start()
    world.add(4)
    world.run_until(kinds.StepReached)
    world.start()
    world.config = settings(seed=2)
    world.run()
    assert not any(isinstance(event, kinds.DivergenceDetected) for event in world.journal)


def test_uncommitted_steps_of_another_plan_are_no_divergence() -> None:
    """The same for a tokenizer that changed before anything was committed."""
    world = World()
    world.start()
    world.add(4)
    world.run_until(kinds.StepReached)
    world.start()
    world.turn()
    state = world.state
    assert state.recovery.step_log.at(1) is not None
    assert state.attempts.current is not None
    prepared = kinds.JobPrepared(job=job_id(1), attempt=state.attempts.current, plan=plan(9))
    assert evolve(state, prepared).recovery.step_log.at(1) is None


def test_steps_after_a_replay_range_are_still_compared_with_their_first_run() -> None:
    """Losing two jobs' checkpoints compares the steps of both."""
    world = World()
    world.config = settings(keep=9)
    world.start()
    world.add(2)
    world.add(2)
    world.run()
    for _ in range(2):
        assert world.state.head.checkpoint is not None
        world.execute(commands.QuarantineCheckpoint(checkpoint=world.state.head.checkpoint.id, problem="rot"))
    world.run_until(kinds.JobTrained)
    assert [world.state.recovery.step_log.at(step) is not None for step in (1, 2, 3, 4)] == [True] * 4


def test_skipping_the_part_that_is_run_again_leaves_the_job_that_waits() -> None:
    """A retried job waits in the queue while its lost steps come back: they end, and it still waits."""
    world = World()
    world.config = settings(keep=9)
    world.start()
    job = world.add(4)
    world.run_until(kinds.CheckpointCommitted)
    for _ in range(5):
        world.lose_worker()
        world.now += 100
        world.turn()
    assert world.state.head.checkpoint is not None
    world.execute(commands.QuarantineCheckpoint(checkpoint=world.state.head.checkpoint.id, problem="rot"))
    world.execute(commands.Retry(job=job))
    world.run_until(kinds.JobSkipped)
    assert not world.state.training.in_progress
    assert world.state.queue.get(job) is not None
    assert world.state.outcomes.counts.skipped == 0


def test_a_full_disk_is_known_until_there_is_room() -> None:
    """Whatever else happens; the second word of it is the one that counts."""
    state = training().state
    full = evolve(state, kinds.StorageExhausted(message="full", wanted_bytes=7))
    assert full == replace(state, disk=replace(state.disk, full=DiskFull("full", 7)))
    again = evolve(full, kinds.StorageExhausted(message="fuller", wanted_bytes=9))
    assert again.disk.full == DiskFull("fuller", 9)
    freed = kinds.StorageFreed(free_bytes=9)
    assert evolve(again, freed) == state
    refuses(state, freed, "was not full")


def test_an_attempt_on_a_full_disk_is_an_earlier_keepsteps_and_means_that_there_was_room() -> None:
    """Its journals hold no `storage_freed`; they fold all the same."""
    world = World()
    world.start()
    job = world.add(2)
    full = evolve(world.state, kinds.StorageExhausted(message="full", wanted_bytes=0))
    begun = evolve(full, kinds.AttemptStarted(job=job, attempt=1, settings=settings()))
    assert begun.disk.full is None
    assert begun.attempts.current == 1


def test_events_that_say_nothing_about_the_present_change_nothing() -> None:
    """They are there for people."""
    state = World().state
    assert evolve(state, kinds.LeftoverDeleted(path="x", size_bytes=1)) is state


def test_a_step_costs_the_same_however_many_jobs_wait() -> None:
    """A new state shares the queue, the checkpoints and the trail's list with the old one."""
    world = training()
    step = last(world, kinds.StepReached)
    after = evolve(world.state, replace(step, global_step=4, step=4))
    assert after.queue is world.state.queue
    assert after.head.checkpoints is world.state.head.checkpoints
    assert after.recovery.step_log.bits is world.state.recovery.step_log.bits


def test_every_kind_is_folded() -> None:
    """`evolve` knows each event type, and nothing else."""
    assert set(EVOLVE) == set(EVENT_TYPES)
