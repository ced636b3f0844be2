"""Each failure is listed once, with a stable name and its class."""

from __future__ import annotations

from core import commands
from core.evolve import evolve
from core.failures import EXPLANATIONS
from core.state import State
from events import kinds
from projections.failures import Failure, Failures
from tests.core.world import World
from tests.projections.timeline import records


def crashes(world: World, number: int | None = None) -> list[Failure]:
    """Of a world's journal."""
    state, found = State(), Failures(number)
    for record in records(world):
        found.observe(state, record)
        state = evolve(state, record.event)
    return list(found.found)


def working(steps: int = 4) -> World:
    """In the middle of a file: three steps reached, two of them committed."""
    world = World()
    world.start()
    world.add(steps)
    world.run_until(kinds.StepReached, 3)
    return world


def test_nothing_went_wrong_where_all_went_well() -> None:
    """A pause and a stop are no crashes."""
    world = working()
    world.execute(commands.Pause())
    world.run()
    assert crashes(world) == []


def test_a_failed_attempt_says_what_it_was_and_what_it_cost() -> None:
    """Its class, its job by name, what was committed, and the steps that were not."""
    world = working()
    world.lose_worker("killed")
    (crash,) = crashes(world)
    assert (crash.name, crash.seq) == (f"crash-{len(world.journal)}", len(world.journal))
    assert (crash.kind, crash.failure, crash.what, crash.attempt) == ("attempt_failed", "killed", "file-1.jsonl", 1)
    assert (crash.global_step + crash.steps_lost, crash.meaning) == (3, EXPLANATIONS["killed"].meaning)


def test_a_hold_has_the_class_of_what_it_follows_from() -> None:
    """And its own advice, as it was journaled."""
    world = working()
    world.fails("data")
    failed, held = crashes(world)
    assert (failed.failure, held.failure, held.kind) == ("data", "data", "daemon_held")
    assert held.advice == EXPLANATIONS["data"].advice
    world.execute(commands.HoldWork(reason="the config is broken", advice="fix it"))
    assert (crashes(world)[-1].failure, crashes(world)[-1].advice) == ("held", "fix it")


def test_a_failed_job_has_the_class_of_its_last_attempt() -> None:
    """Five attempts and the end of it are six entries; the last ones are shown."""
    world = World()
    world.start()
    world.add(3)
    while not any(isinstance(event, kinds.JobFailed) for event in world.journal):
        world.run_until(kinds.JobPrepared)
        world.fails("code")
    assert [crash.kind for crash in crashes(world)] == ["attempt_failed"] * 5 + ["job_failed"]
    assert [crash.kind for crash in crashes(world, 2)] == ["attempt_failed", "job_failed"]
    assert crashes(world)[-1].failure == "code"


def test_a_dead_daemon_interrupts_and_is_nobodys_fault() -> None:
    """Found by the next one."""
    world = working()
    world.end_worker()
    world.start()
    (crash,) = crashes(world)
    assert (crash.kind, crash.failure) == ("attempt_interrupted", "interrupted")


def test_a_step_that_is_not_the_same_is_shown_with_both_numbers() -> None:
    """NaN is shown as NaN."""
    world = working()
    state = world.state
    job = state.training.current
    assert job is not None
    diverged = kinds.DivergenceDetected(
        job=job.id,
        attempt=1,
        global_step=3,
        step=3,
        loss="NaN",
        grad_norm=1.0,
        expected_loss=0.5,
        expected_grad_norm=1.0,
    )
    world.happens(diverged)
    (crash,) = crashes(world)
    assert crash.failure == "diverged"
    assert "loss NaN" in crash.message
    assert "0.5" in crash.message
