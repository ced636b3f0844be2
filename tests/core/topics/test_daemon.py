"""The home and its daemon."""

from __future__ import annotations

from core.evolve import evolve
from events import kinds
from tests.core.test_evolve import last, refuses, training
from tests.core.world import World, settings


def test_a_home_is_created_once() -> None:
    """The first record says so, and no other."""
    refuses(World().state, kinds.HomeCreated(home_id="other", keepstep="0"), "first record")


def test_a_daemon_neither_comes_nor_goes_while_an_attempt_runs() -> None:
    """Its end is journaled first."""
    world = training()
    start = last(world, kinds.DaemonStarted)
    refuses(world.state, start, "has not ended")
    refuses(world.state, kinds.DaemonStopped(reason="r"), "has not ended")


def test_a_repair_is_remembered_until_an_attempt_begins() -> None:
    """Until then, checkpoints that no record names are moved and kept: the lost records may have named them."""
    world = World()
    world.start()
    world.add(2)
    repaired = evolve(world.state, kinds.JournalRepaired(first_seq=1, last_seq=2, problem="rot"))
    assert repaired.home.repaired
    job = repaired.queue.front()
    assert job is not None
    assert not evolve(repaired, kinds.AttemptStarted(job=job.id, attempt=1, settings=settings())).home.repaired
