"""Lost checkpoints: which steps come back, in which order, ahead of what."""

from __future__ import annotations

from core import commands
from core.state import State
from events import kinds
from tests.core.world import World, job_id, settings


def world(*files: int, every_steps: int = 2, keep: int = 9) -> World:
    """A running home with these files."""
    made = World()
    made.config = settings(every_steps=every_steps, keep=keep)
    made.start()
    for steps in files:
        made.add(steps)
    return made


def condemn(world: World) -> None:
    """The head is found to be bad, while nothing runs."""
    head = world.state.head
    assert head is not None
    world.execute(commands.CondemnCheckpoint(checkpoint=head.id, problem="rot"))


def in_hand(state: State) -> list[tuple[str, int, int | None]]:
    """(name, step it stands at, step it ends at) of the jobs in hand."""
    return [(job.name, job.committed_step, job.until) for job in state.begun]


def test_commits_of_one_job_make_one_stretch() -> None:
    """And the next job begins another."""
    lived = world(4, 2)
    lived.run()
    assert [(each.global_from, each.global_to) for each in lived.state.stretches] == [(0, 4), (4, 6)]


def test_a_finished_job_comes_back_for_its_lost_steps() -> None:
    """From the step of the ancestor to the one at which it had ended."""
    lived = world(5)
    lived.run()
    condemn(lived)
    assert in_hand(lived.state) == [("file-1.jsonl", 4, 5)]


def test_every_job_behind_the_ancestor_comes_back_in_order() -> None:
    """The order of the steps is part of what the weights are."""
    lived = world(3, 2, every_steps=2)
    lived.run()
    for _ in range(2):
        condemn(lived)
    assert in_hand(lived.state) == [("file-1.jsonl", 2, 3), ("file-2.jsonl", 0, 2)]
    lived.run()
    assert not lived.lost
    lived.check_timeline()


def test_the_job_in_hand_waits_until_its_lost_steps_are_back() -> None:
    """The lost part comes back as a job of its own; the job in hand keeps what it had reached."""
    lived = world(6)
    lived.run_until(kinds.CheckpointCommitted, 2)
    lived.start()
    condemn(lived)
    assert in_hand(lived.state) == [("file-1.jsonl", 2, 4), ("file-1.jsonl", 4, None)]


def test_lost_steps_are_run_again_under_their_old_settings_even_from_the_very_beginning() -> None:
    """Without a checkpoint left nothing says that the job was begun, except that it is run again."""
    lived = world(4)
    lived.run_until(kinds.CheckpointCommitted)
    lived.start()
    condemn(lived)
    lived.config = settings(seed=2)
    lived.run()
    assert not lived.lost
    assert {event.settings.training.seed for event in lived.journal if isinstance(event, kinds.AttemptStarted)} == {1}


def test_losing_more_while_running_again_goes_further_back() -> None:
    """The stretch that is already run again takes an earlier step; nothing is in hand twice."""
    lived = world(6, every_steps=2)
    lived.run()
    condemn(lived)
    condemn(lived)
    lived.run_until(kinds.CheckpointCommitted)
    lived.start()
    assert in_hand(lived.state) == [("file-1.jsonl", 4, 6)]
    condemn(lived)
    assert in_hand(lived.state) == [("file-1.jsonl", 2, 6)]


def test_a_pruned_past_is_forgotten() -> None:
    """Only what a kept checkpoint can lead to is remembered."""
    lived = world(4, 4, 4, keep=2)
    lived.run()
    oldest = lived.state.checkpoints[0].global_step
    assert all(stretch.global_to > oldest for stretch in lived.state.stretches)
    assert lived.state.trail.base == oldest


def test_a_failed_job_comes_back_for_the_steps_it_had_committed() -> None:
    """It stays failed beside that, and can be retried; the retry goes on where it had ended."""
    lived = world(6, 2)
    lived.run_until(kinds.CheckpointCommitted, 2)
    for _ in range(5):
        lived.lose_worker()
        lived.now += 100
        lived.turn()
    job = job_id(1)
    assert lived.state.failed.get(job) is not None
    lived.run()
    condemn(lived)
    condemn(lived)
    assert in_hand(lived.state)[0] == ("file-1.jsonl", 2, 4)
    lived.execute(commands.Retry(job=job))
    lived.run()
    assert not lived.lost
    lived.check_timeline()
    assert lived.ends == {job: ["JobTrained"], job_id(2): ["JobTrained"]}
