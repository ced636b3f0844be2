"""How jobs end, and which of it the state keeps."""

from __future__ import annotations

from msgspec.structs import replace

from core import commands
from core.evolve import evolve
from events import kinds
from tests.core.situations import at_work
from tests.core.test_evolve import before_last, refuses, training
from tests.core.world import World, job_id, settings


def test_a_job_is_trained_when_its_last_step_is_committed() -> None:
    """Not before, and only with the head as its checkpoint."""
    world = training()
    head = world.state.head.checkpoint
    assert head is not None
    event = kinds.JobTrained(job=job_id(1), attempt=1, global_step=2, checkpoint=head.id)
    refuses(world.state, event, "its last step is not committed")


def test_a_job_is_trained_into_the_head_and_no_other_checkpoint() -> None:
    """What is published later is what its record names."""
    world = training()
    world.run()
    state, trained = before_last(world, kinds.JobTrained)
    older = state.head.checkpoints[-2].id
    refuses(state, replace(trained, checkpoint=older), "its last step is not committed")
    assert evolve(state, trained).training.current is None


def test_a_rejection_by_another_attempt_is_illegal() -> None:
    """As is every outcome that names an attempt: the one that runs alone may speak of the job."""
    world = World()
    world.start()
    world.add(0)
    world.run_until(kinds.JobRejected)
    state, rejected = before_last(world, kinds.JobRejected)
    refuses(state, replace(rejected, attempt=rejected.attempt + 1), "not the running one")
    assert evolve(state, rejected).attempts.current is None


def test_a_rejection_is_settled_once() -> None:
    """The outcome needs an intent."""
    event = kinds.RejectedFileMoved(job=job_id(1), path="rejected/x")
    refuses(World().state, event, "no rejection")


def test_rows_are_mixed_in_from_each_file_that_was_trained_and_never_from_the_file_itself() -> None:
    """The file that was trained last stands last; a file that is trained again stands once."""
    world = World()
    mixing = settings()
    world.config = replace(mixing, data=replace(mixing.data, replay=0.5))
    world.start()
    first, second, third = (world.add(2) for _ in range(3))
    world.run()
    assert world.again(first) is None
    world.run()
    started = [event.settings.sources.replay for event in world.journal if isinstance(event, kinds.AttemptStarted)]
    assert started == [(), (first,), (first, second), (second, third)]
    assert world.state.outcomes.trained == (second, third, first)


def test_a_waiting_job_is_skipped_and_the_running_one_stays() -> None:
    world = at_work()
    waiting = world.add(2)
    world.execute(commands.Skip(job=waiting))
    assert world.state.queue.get(waiting) is None
    current = world.state.training.current
    assert current is not None
    assert current.id != waiting
    world.run()
    assert world.ends == {current.id: ["JobTrained"], waiting: ["JobSkipped"]}
