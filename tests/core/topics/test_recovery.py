"""Lost checkpoints: which steps come back, in which order, ahead of what."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from msgspec.structs import replace

from core import commands
from core.state import State
from events import kinds, messages
from tests.core.situations import at_work, tags
from tests.core.world import World, job_id, seen, settings


def world(*files: int, every_steps: int = 2, keep: int = 9) -> World:
    """A running home with these files."""
    made = World()
    made.config = settings(every_steps=every_steps, keep=keep)
    made.start()
    for steps in files:
        made.add(steps)
    return made


def quarantine_head(world: World) -> None:
    """The head is found to be bad, while nothing runs."""
    head = world.state.head.checkpoint
    assert head is not None
    world.execute(commands.QuarantineCheckpoint(checkpoint=head.id, problem="rot"))


def in_progress(state: State) -> list[tuple[str, int, int | None]]:
    """(name, step it stands at, step it ends at) of the jobs in progress."""
    return [(job.name, job.committed_step, job.until) for job in state.training.in_progress]


def test_commits_of_one_job_make_one_replay_range() -> None:
    """And the next job begins another."""
    lived = world(4, 2)
    lived.run()
    assert [(each.global_from, each.global_to) for each in lived.state.recovery.replay_ranges] == [(0, 4), (4, 6)]


def test_a_retried_job_does_not_lengthen_the_replay_range_of_another() -> None:
    """Though it continues at the very step at which the other one ended."""
    lived = world(6, 2)
    lived.run_until(kinds.CheckpointCommitted)
    for _ in range(5):
        lived.lose_worker()
        lived.now += 100
        lived.turn()
    assert lived.state.outcomes.failed.get(job_id(1)) is not None
    lived.run()
    lived.execute(commands.Retry(job=job_id(1)))
    lived.run()
    ranges = [(each.job.name, each.step_from, each.step_to) for each in lived.state.recovery.replay_ranges]
    assert ranges == [("file-1.jsonl", 0, 2), ("file-2.jsonl", 0, 2), ("file-1.jsonl", 2, 6)]


def test_a_finished_job_comes_back_for_its_lost_steps() -> None:
    """From the step of the ancestor to the one at which it had ended."""
    lived = world(5)
    lived.run()
    quarantine_head(lived)
    assert in_progress(lived.state) == [("file-1.jsonl", 4, 5)]


def test_every_job_after_the_ancestor_comes_back_in_order() -> None:
    """The order of the steps is part of what the weights are."""
    lived = world(3, 2, every_steps=2)
    lived.run()
    for _ in range(2):
        quarantine_head(lived)
    assert in_progress(lived.state) == [("file-1.jsonl", 2, 3), ("file-2.jsonl", 0, 2)]
    lived.run()
    assert not lived.lost
    lived.check_timeline()


def test_the_job_in_progress_waits_until_its_lost_steps_are_back() -> None:
    """The lost part comes back as a separate job; the job in progress keeps what it had reached."""
    lived = world(6)
    lived.run_until(kinds.CheckpointCommitted, 2)
    lived.start()
    quarantine_head(lived)
    assert in_progress(lived.state) == [("file-1.jsonl", 2, 4), ("file-1.jsonl", 4, None)]


def test_lost_steps_are_run_again_under_their_old_settings_even_from_the_very_beginning() -> None:
    """Without a checkpoint left nothing says that the job was begun, except that it is run again."""
    lived = world(4)
    lived.run_until(kinds.CheckpointCommitted)
    lived.start()
    quarantine_head(lived)
    lived.config = settings(seed=2)
    lived.run()
    assert not lived.lost
    assert {event.settings.training.seed for event in lived.journal if isinstance(event, kinds.AttemptStarted)} == {1}


def test_losing_more_while_running_again_goes_further_back() -> None:
    """The replay range that already runs takes an earlier step; nothing is in progress twice."""
    lived = world(6, every_steps=2)
    lived.run()
    quarantine_head(lived)
    quarantine_head(lived)
    lived.run_until(kinds.CheckpointCommitted)
    lived.start()
    assert in_progress(lived.state) == [("file-1.jsonl", 4, 6)]
    quarantine_head(lived)
    assert in_progress(lived.state) == [("file-1.jsonl", 2, 6)]


def test_a_pruned_past_is_forgotten() -> None:
    """Only what a kept checkpoint can lead to is remembered."""
    lived = world(4, 4, 4, keep=2)
    lived.run()
    oldest = lived.state.head.checkpoints[0].global_step
    assert all(replay_range.global_to > oldest for replay_range in lived.state.recovery.replay_ranges)
    assert lived.state.recovery.step_log.base == oldest


def test_a_failed_job_comes_back_for_the_steps_it_had_committed() -> None:
    """Meanwhile it stays failed and can be retried; the retry continues where it had ended."""
    lived = world(6, 2)
    lived.run_until(kinds.CheckpointCommitted, 2)
    for _ in range(5):
        lived.lose_worker()
        lived.now += 100
        lived.turn()
    job = job_id(1)
    assert lived.state.outcomes.failed.get(job) is not None
    lived.run()
    quarantine_head(lived)
    quarantine_head(lived)
    assert in_progress(lived.state)[0] == ("file-1.jsonl", 2, 4)
    lived.execute(commands.Retry(job=job))
    lived.run()
    assert not lived.lost
    lived.check_timeline()
    assert lived.ends == {job: ["JobTrained"], job_id(2): ["JobTrained"]}


def world_with_quarantined(checkpoints: Sequence[int], bad: Sequence[int], *, pruned: bool) -> World:
    """Two files of eight and six steps, checkpoints two steps apart at first; some are then found to be bad, in that
    order (0: the oldest). `pruned`: what lies before the oldest is not there any more."""
    lived = world(8, 6, keep=len(checkpoints) if pruned else 9)
    lived.run()
    assert [each.global_step for each in lived.state.head.checkpoints] == list(checkpoints)
    ids = [each.id for each in lived.state.head.checkpoints]
    for each in bad:
        lived.execute(commands.QuarantineCheckpoint(checkpoint=ids[each], problem="rot"))
    return lived


ALL = (2, 4, 6, 8, 10, 12, 14)
KEPT = (8, 10, 12, 14)


@pytest.mark.parametrize("bad", [bad for count in range(1, 8) for bad in combinations(range(7), count)])
def test_bad_checkpoints_end_in_the_same_state_whichever_is_found_first(bad: tuple[int, ...]) -> None:
    """Newest first, oldest first, or from the middle: the newest good one is the head, or the base; all steps after
    it come back as they were."""
    mixed = (*bad[len(bad) // 2 :], *bad[: len(bad) // 2])
    lives = [world_with_quarantined(ALL, order, pruned=False) for order in (bad, bad[::-1], mixed)]
    left = tuple(step for at, step in enumerate(ALL) if at not in bad)
    states = [seen(replace(lived.state, recovery=replace(lived.state.recovery, quarantined=()))) for lived in lives]
    assert all(state == states[0] for state in states)
    for lived in lives:
        state = lived.state
        assert tuple(each.global_step for each in state.head.checkpoints) == left
        assert state.recovery.replayable_from == 0
        lived.run()
        assert not lived.lost
        lived.check_timeline()
        assert lived.state.head.global_step == 14


@pytest.mark.parametrize("bad", [bad for count in range(1, 4) for bad in combinations(range(4), count)])
def test_after_pruning_the_same_as_long_as_one_is_left(bad: tuple[int, ...]) -> None:
    """Nothing goes back before the oldest good one, so no more than that is remembered."""
    lives = [world_with_quarantined(KEPT, order, pruned=True) for order in (bad, bad[::-1])]
    left = tuple(step for at, step in enumerate(KEPT) if at not in bad)
    states = [seen(replace(lived.state, recovery=replace(lived.state.recovery, quarantined=()))) for lived in lives]
    assert all(state == states[0] for state in states)
    for lived in lives:
        state = lived.state
        assert tuple(each.global_step for each in state.head.checkpoints) == left
        assert state.recovery.replayable_from == left[0]
        assert state.daemon.hold is None
        lived.run()
        assert not lived.lost
        lived.check_timeline()
        assert lived.state.head.global_step == 14


@pytest.mark.parametrize(("order", "last"), [((0, 1, 2, 3), 14), ((3, 2, 1, 0), 8), ((1, 3, 0, 2), 12)])
def test_the_last_one_after_pruned_steps_is_held_whichever_it_is(order: tuple[int, ...], last: int) -> None:
    """All are bad: a person can put back a copy of the one that was found last, and then everything comes back."""
    lived = world_with_quarantined(KEPT, order, pruned=True)
    assert [each.global_step for each in lived.state.head.checkpoints] == [last]
    assert lived.state.daemon.hold is not None
    lived.execute(commands.Resume())
    lived.run()
    assert not lived.lost
    lived.check_timeline()
    assert lived.state.head.global_step == 14


def test_a_bad_ancestor_leaves_head_and_jobs_as_they_are() -> None:
    """Nothing is run again for it, neither now nor by the job in progress."""
    lived = world(6)
    lived.run_until(kinds.CheckpointCommitted, 2)
    lived.start()
    before = lived.state
    first, second = before.head.checkpoints
    lived.execute(commands.QuarantineCheckpoint(checkpoint=first.id, problem="rot"))
    assert lived.state == replace(
        before,
        head=replace(before.head, checkpoints=(second,)),
        recovery=replace(before.recovery, quarantined=(first.id,)),
    )
    lived.run()
    assert sum(isinstance(event, kinds.StepReached) for event in lived.journal) == 6


def test_the_base_precedes_the_oldest_until_something_is_pruned() -> None:
    """Two bad ones, the oldest among them, and retention continues as ever: only then is the base out of reach."""
    lived = world(8, keep=3)
    lived.run_until(kinds.CheckpointCommitted, 3)
    lived.start()
    lived.execute(commands.QuarantineCheckpoint(checkpoint=lived.state.head.checkpoints[0].id, problem="rot"))
    assert lived.state.recovery.replayable_from == 0
    lived.run()
    assert [each.global_step for each in lived.state.head.checkpoints] == [4, 6, 8]
    assert lived.state.recovery.replayable_from == 0
    lived.add(1)
    lived.run()
    assert [each.global_step for each in lived.state.head.checkpoints] == [6, 8, 9]
    assert lived.state.recovery.replayable_from == 6


def test_pruning_one_that_is_not_the_oldest_forgets_nothing() -> None:
    """What was trained before it can still be run again from the one before it."""
    lived = world(6)
    lived.run()
    lived.happens(kinds.CheckpointPruned(checkpoint=lived.state.head.checkpoints[1].id, size_bytes=1))
    assert lived.state.recovery.replayable_from == 0
    for _ in range(2):
        quarantine_head(lived)
    assert not lived.state.head.checkpoints
    lived.run()
    assert not lived.lost
    lived.check_timeline()


def test_a_worker_quarantines_only_the_checkpoint_that_it_was_to_load() -> None:
    """An older one may well be whole: the worker is at fault."""
    world = at_work()
    world.run_until(kinds.CheckpointCommitted)
    older, head = world.state.head.checkpoints
    (event,) = world.execute(messages.CheckpointBad(attempt=1, checkpoint=older.id, problem="rot"))
    assert isinstance(event, kinds.AttemptFailed)
    assert event.message == f"the worker was to load {head.id}, not {older.id}"
    assert world.state.head.checkpoints == (older, head)


def test_a_step_that_gives_other_bits_is_a_divergence() -> None:
    """Said with both values; what it gave now is what the next run is held against."""
    world = at_work(kinds.StepReached)
    first = next(event for event in world.journal if isinstance(event, kinds.StepReached))
    world.start()
    world.run_until(kinds.TrainingStarted)
    fact = messages.Step(
        attempt=2, global_step=1, step=1, epoch=1, loss="NaN", grad_norm=1.0, learning_rate=1.0, tokens=1, seconds=1.0
    )
    reached, diverged = world.execute(fact)
    assert isinstance(reached, kinds.StepReached)
    assert isinstance(diverged, kinds.DivergenceDetected)
    assert (diverged.loss, diverged.expected_loss) == ("NaN", first.loss)
    assert world.state.recovery.step_log.at(1) == ("NaN", 1.0)


def test_a_damaged_head_gives_way_to_its_ancestor() -> None:
    """The attempt has failed, though not by the job's fault, and the next one begins further back."""
    world = at_work()
    world.run_until(kinds.CheckpointCommitted)
    head = world.state.head.checkpoint
    assert head is not None
    world.spoiled.add(head.id)
    world.start()
    world.run_until(kinds.CheckpointQuarantined)
    assert tags(world.journal[-2:]) == ["AttemptFailed", "CheckpointQuarantined"]
    assert all(job.failures == 0 for job in world.state.training.in_progress)
    world.run()
    assert not world.lost
    world.check_timeline()


def test_the_last_checkpoint_is_held_and_not_pruned() -> None:
    """Everything before it is pruned, so only a person can bring it back."""
    world = World()
    world.config = settings(keep=1)
    world.start()
    world.add(4)
    world.run()
    head = world.state.head.checkpoint
    assert head is not None
    world.add(2)
    world.start()
    world.spoiled.add(head.id)
    world.run()
    assert world.state.head.checkpoint == head
    assert world.state.daemon.hold is not None
    assert "backup" in world.state.daemon.hold.advice
    world.spoiled.clear()
    world.execute(commands.Resume())
    world.run()
    world.check_timeline()


def test_the_last_checkpoint_is_held_once() -> None:
    """Each start finds it damaged again; while work is held for that, there is nothing new to say."""
    world = World()
    world.config = settings(keep=1)
    world.start()
    world.add(4)
    world.run()
    assert world.state.head.checkpoint is not None
    quarantine_head = commands.QuarantineCheckpoint(checkpoint=world.state.head.checkpoint.id, problem="rot")
    assert tags(world.execute(quarantine_head)) == ["DaemonHeld"]
    world.start()
    assert world.execute(quarantine_head) == []
    world.execute(commands.Resume())
    assert tags(world.execute(quarantine_head)) == ["DaemonHeld"]
