"""What `keepstep explain` says a thing is now, where there are other things of its kind."""

from __future__ import annotations

from cli.diagnosis.explain import Summary, summarize, timeline_of
from core import commands
from core.evolve import evolve
from core.state import State
from events import kinds
from events.codec import Record
from tests.core.situations import lived, trained
from tests.core.world import World


def explained(world: World, wanted: str) -> Summary:
    timeline, state = timeline_of(wanted, lambda *_: ""), State()
    for seq, event in enumerate(world.journal, start=1):
        before, state = state, evolve(state, event)
        record = Record(seq=seq, at="2027-01-15T08:00:00.000Z", durable=0, prev="", event=event, crc="")
        timeline.observe(before, state, record)
    return summarize(timeline, state, wanted, alive=True)


def failures(world: World) -> list[str]:
    ended = kinds.AttemptFailed
    return [f"crash-{seq}" for seq, event in enumerate(world.journal, start=1) if isinstance(event, ended)]


def test_a_job_in_the_queue_has_its_own_place() -> None:
    world = World()
    world.start()
    for _ in range(3):
        last = world.add(2)
    world.turn()
    assert explained(world, last).now == "number 2 of 2 in the queue"


def test_a_job_is_said_to_have_its_own_steps() -> None:
    world = World()
    world.start()
    first, second = world.add(2), world.add(4)
    world.run()
    assert explained(world, first).now == "all 2 steps are in the head"
    assert explained(world, second).now == "all 4 steps are in the head"


def test_the_failure_that_is_named_is_explained() -> None:
    world = World()
    world.start()
    world.add(4)
    for failure in ("killed", "code"):
        world.run_until(kinds.StepReached)
        world.lose_worker(failure)
    titles = [explained(world, name).title.partition(":")[0] for name in failures(world)]
    assert titles == [f"{name}, {failure}" for name, failure in zip(failures(world), ("killed", "code"), strict=True)]


def test_a_failure_of_a_job_that_waits_again_says_nothing_about_the_running_one() -> None:
    world = World()
    world.start()
    job = world.add(4)
    while world.state.outcomes.failed.get(job) is None:
        world.run_until(kinds.AttemptStarted)
        world.lose_worker("code")
    world.add(4)
    world.run_until(kinds.AttemptStarted)
    world.execute(commands.Retry(job=job))
    (name, *_) = failures(world)
    assert explained(world, name).next.startswith("nothing; it is over")


def test_a_checkpoint_is_not_taken_for_another_one() -> None:
    """One that was merged and deleted, one that was deleted, a damaged one, a detached one, a kept one, the head."""
    world = lived(2)
    (merged,) = (event.checkpoint for event in world.journal if isinstance(event, kinds.CheckpointCommitted))
    damaged = trained(world, 2)
    world.execute(commands.QuarantineCheckpoint(checkpoint=damaged.id, problem="a flipped bit"))
    world.run()
    world.execute(commands.MoveHead(version="v001"))
    trained(world, 6)
    (detached,) = (left.checkpoint for left in world.state.head.detached)
    kept, head = world.state.head.checkpoints
    (deleted, *_) = (event.checkpoint for event in reversed(world.journal) if isinstance(event, kinds.CheckpointPruned))
    backup = world.state.retention.backups[0].id
    assert {
        name: explained(world, name).now for name in (merged, deleted, damaged.id, detached.id, kept.id, head.id)
    } == {
        merged: f"deleted; newer checkpoints are kept; its copy is {backup}",
        deleted: "deleted; newer checkpoints are kept",
        damaged.id: "damaged, in quarantine/",
        detached.id: "detached: the head was moved away",
        kept.id: "kept, older than the head",
        head.id: "the head: the next step starts from it",
    }
