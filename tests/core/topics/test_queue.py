"""Jobs in the queue: where they stand, what may be taken back, and what stays because weights hold it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core import commands
from core.errors import IllegalEvent
from core.evolve import evolve
from events import kinds
from tests.core.world import World, job_id

ONE, TWO, THREE = job_id(1), job_id(2), job_id(3)


def waiting() -> World:
    """Three files wait, the last one in the lane for what is urgent."""
    world = World()
    world.start()
    for priority in ("normal", "normal", "high"):
        world.add(2, priority)
    return world


def in_progress() -> World:
    """The urgent one is being trained."""
    world = waiting()
    world.run_until(kinds.StepReached)
    return world


def failed() -> World:
    """It failed permanently before anything was committed."""
    world = waiting()
    for _ in range(5):
        world.turn()
        world.lose_worker()
        world.now += 100
    return world


def order(world: World) -> list[str]:
    """The names in the queue, without what all have in common."""
    return [job.name.removeprefix("file-").removesuffix(".jsonl") for job in world.state.queue]


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        (commands.MoveJob(job=TWO, first=True), ["3", "2", "1"]),
        (commands.MoveJob(job=TWO, before=ONE), ["3", "2", "1"]),
        (commands.MoveJob(job=ONE, priority="high"), ["3", "1", "2"]),
        (commands.MoveJob(job=ONE, priority="high", first=True), ["1", "3", "2"]),
        (commands.MoveJob(job=ONE, before=THREE), ["1", "3", "2"]),
        (commands.MoveJob(job=THREE, priority="low"), ["1", "2", "3"]),
        (commands.MoveJob(job=THREE, priority="normal"), ["1", "2", "3"]),
        (commands.MoveJob(job=THREE, priority="normal", first=True), ["3", "1", "2"]),
        (commands.MoveJob(job=ONE, priority="low", first=True), ["3", "2", "1"]),
    ],
)
def test_a_job_stands_where_it_was_put(move: commands.MoveJob, expected: list[str]) -> None:
    """And is trained in that order; held or not, it stays what it was."""
    world = waiting()
    assert order(world) == ["3", "1", "2"]
    world.execute(commands.HoldJob(job=move.job))
    world.execute(move)
    assert order(world) == expected
    moved = world.state.queue.get(move.job)
    assert moved is not None
    assert moved.status == "held"
    world.execute(commands.ReleaseJob(job=move.job))
    world.run()
    started = [event.job for event in world.journal if isinstance(event, kinds.AttemptStarted)]
    assert [str(int(job, 16)) for job in started] == expected


@pytest.mark.parametrize(
    ("situation", "command", "reason"),
    [
        (waiting, commands.MoveJob(job=ONE, before=ONE), "cannot stand before itself"),
        (waiting, commands.MoveJob(job=ONE, before=TWO), "already stands there"),
        (waiting, commands.MoveJob(job=ONE, first=True), "already stands there"),
        (waiting, commands.MoveJob(job=ONE, priority="normal"), "already has priority normal"),
        (
            waiting,
            commands.MoveJob(job=ONE, before=THREE, priority="low"),
            "has priority high; only a job of that priority",
        ),
        (waiting, commands.MoveJob(job=ONE, before=job_id(9)), "no job 000000000000 waits"),
        (waiting, commands.MoveJob(job=job_id(9), first=True), "no job 000000000000 waits"),
        (waiting, commands.ReleaseJob(job=ONE), "file-1.jsonl is not held"),
        (waiting, commands.RemoveJob(job=job_id(9)), "no job 000000000000 waits"),
        (
            in_progress,
            commands.MoveJob(job=THREE, priority="low"),
            "is in progress, and a job that has started is finished first",
        ),
        (in_progress, commands.HoldJob(job=THREE), "`keepstep skip` ends it"),
        (in_progress, commands.ReleaseJob(job=THREE), "is in progress"),
        (in_progress, commands.RemoveJob(job=THREE), "is in progress"),
        (
            failed,
            commands.HoldJob(job=THREE),
            "has failed and is not in the queue. To queue it again: `keepstep retry`",
        ),
        (failed, commands.MoveJob(job=THREE, first=True), "has failed"),
    ],
)
def test_what_cannot_be_ordered_is_refused_with_the_reason(
    situation: Callable[[], World], command: commands.AnyCommand, reason: str
) -> None:
    """For the person who asked; nothing changes."""
    world = situation()
    before = world.state
    assert reason in str(world.refused(command))
    assert world.state is before


def test_a_held_job_is_passed_over_and_keeps_its_place() -> None:
    """What stands after it is trained; released, it goes before what came later."""
    world = waiting()
    world.execute(commands.HoldJob(job=THREE))
    world.execute(commands.HoldJob(job=ONE))
    assert "is already held" in str(world.refused(commands.HoldJob(job=ONE)))
    world.run()
    assert world.ends == {TWO: ["JobTrained"]}
    world.add(2)
    world.execute(commands.ReleaseJob(job=ONE))
    assert order(world) == ["3", "1", "4"]
    front = world.state.queue.front()
    assert front is not None
    assert front.id == ONE
    world.run()
    assert order(world) == ["3"]


def test_nothing_is_begun_while_all_that_waits_is_held() -> None:
    """Nor does it keep a consolidation from being made."""
    world = waiting()
    world.run_until(kinds.JobTrained)
    world.start()
    for job in (ONE, TWO):
        world.refused(commands.HoldJob(job=job))
    world.run()
    world.execute(commands.RequestConsolidation(description=""))
    world.run()
    assert world.state.retention.versions_made == 1
    with pytest.raises(IllegalEvent):
        evolve(world.state, kinds.AttemptStarted(job=TWO, attempt=world.state.attempts.last + 1, settings=world.config))


def test_what_is_taken_back_goes_to_rejected_and_may_come_again() -> None:
    """Its bytes are not known any more, once they are there."""
    world = waiting()
    (event,) = world.execute(commands.RemoveJob(job=ONE))
    assert event == kinds.JobRemoved(job=ONE, name="file-1.jsonl", keeps_data=False)
    assert world.state.outcomes.rejections.get(ONE) is not None
    assert world.state.outcomes.counts.removed == 1
    world.run()
    assert not len(world.state.outcomes.rejections)
    add = commands.AddFile(job=ONE, name="file-1.jsonl", size_bytes=1, priority="low", known=False)
    assert [type(event) for event in world.execute(add)] == [kinds.FileEnqueued]


def test_a_failed_job_is_taken_back_too_unless_weights_hold_some_of_it() -> None:
    """What was committed stays trained, so its file stays as well."""
    world = failed()
    world.execute(commands.RemoveJob(job=THREE))
    assert world.state.job(THREE) is None
    world = waiting()
    world.add(6, "high")
    world.execute(commands.MoveJob(job=job_id(4), first=True))
    world.run_until(kinds.CheckpointCommitted)
    for _ in range(5):
        world.lose_worker()
        world.now += 100
        world.turn()
    assert world.state.outcomes.failed.get(job_id(4)) is not None
    assert "partly trained" in str(world.refused(commands.RemoveJob(job=job_id(4))))
    world.execute(commands.Retry(job=job_id(4)))
    assert "`keepstep skip` ends it" in str(world.refused(commands.RemoveJob(job=job_id(4))))


def test_a_second_pass_that_is_taken_back_leaves_the_file_where_it_is() -> None:
    """The first job trained weights on it; to lose the file would be to lose what they were made of."""
    world = waiting()
    world.run()
    assert world.again(ONE) is None
    assert "is identical to again-1.jsonl" in str(world.again(ONE))
    (event,) = world.execute(commands.RemoveJob(job=ONE))
    assert event == kinds.JobRemoved(job=ONE, name="again-1.jsonl", keeps_data=True)
    assert not len(world.state.outcomes.rejections)
    with pytest.raises(IllegalEvent):
        evolve(waiting().state, kinds.JobRemoved(job=job_id(9), name="", keeps_data=False))
    assert world.again(ONE) is None
    with pytest.raises(IllegalEvent):
        evolve(world.state, kinds.JobRemoved(job=ONE, name="", keeps_data=False))


def test_a_second_pass_is_trained_whole_and_can_run_again() -> None:
    """Its steps come after those of the first; a lost checkpoint makes exactly its steps run again."""
    world = waiting()
    world.run()
    assert world.again(ONE) is None
    world.run()
    assert world.timeline.count((ONE, 2)) == 2
    world.start()
    assert world.state.head.checkpoint is not None
    world.execute(commands.QuarantineCheckpoint(checkpoint=world.state.head.checkpoint.id, problem="rot"))
    world.run()
    assert not world.lost
    world.check_timeline()


def test_a_second_pass_that_is_rejected_moves_nothing() -> None:
    """The settings are others by now, and the file cannot be trained on any more; it was before."""
    world = waiting()
    world.run()
    assert world.again(ONE) is None
    world.steps[ONE] = 0
    world.run_until(kinds.JobRejected)
    assert not len(world.state.outcomes.rejections)
    assert world.state.outcomes.counts.rejected == 1


@pytest.mark.parametrize("before", [ONE, THREE, job_id(9)])
def test_no_place_is_before_a_job_of_another_lane(before: str) -> None:
    """Nor before itself, or before what does not wait: such a record is refused and changes nothing."""
    state = waiting().state
    with pytest.raises(IllegalEvent):
        evolve(state, kinds.JobMoved(job=ONE, priority="normal", before=before))
