"""The evaluation at the end of a job: which files it is about, and that it never fails a job."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core import commands
from core.errors import IllegalEvent
from core.evolve import evolve
from core.topics.attempts import ATTEMPTS_WITHOUT_PROGRESS
from core.topics.evaluation.jobs import RESULTS_KEPT
from events import kinds, messages
from events.evaluation import ResultsFile, Scores
from tests.core.world import World, job_id, settings


def world_of(steps: int = 4, *, held_out: bool = True) -> World:
    world = World()
    world.config = settings(held_out=held_out)
    world.start()
    world.add(steps)
    return world


def order(world: World) -> messages.Train:
    world.run_until(kinds.JobPrepared)
    (effect,) = world.pending_effects()
    message = getattr(effect, "message", None)
    assert isinstance(message, messages.Train)
    return message


def report(world: World) -> messages.JobEvaluated:
    reached, attempt = world.state.attempts.reached, world.state.attempts.current
    assert attempt is not None
    return messages.JobEvaluated(
        attempt=attempt,
        global_step=reached.global_step,
        step=reached.step,
        results=ResultsFile(id=f"step-{reached.global_step:08d}-attempt-0001", sha256="", size_bytes=1),
        scores=Scores(),
        divergence=None,
        suites_sha256="",
        seconds=1.0,
        problem="",
    )


def test_a_job_is_evaluated_on_its_own_file_and_on_those_before() -> None:
    world = world_of()
    first = order(world).suites
    assert first is not None
    assert [file.job for file in first.files] == [job_id(1)]
    world.run()
    world.add(4)
    second = order(world).suites
    assert second is not None
    assert [file.job for file in second.files] == [job_id(1), job_id(2)]
    assert second.new == (job_id(1), job_id(2))
    assert (second.rows_max, second.questions_max) == (64, 16)
    assert second.files[0].data.holdout == 0.1


def test_files_since_the_last_version_are_new() -> None:
    world = world_of()
    world.run()
    world.execute(commands.RequestConsolidation(description=""))
    world.run()
    world.add(4)
    suites = order(world).suites
    assert suites is not None
    assert suites.new == (job_id(2),)


def test_a_file_without_held_out_rows_is_in_no_suite() -> None:
    suites = order(world_of(held_out=False)).suites
    assert suites is not None
    assert suites.files == ()


def test_what_was_evaluated_is_not_evaluated_again() -> None:
    """After the evaluation the last commit may fail; the next attempt trains the last steps again."""
    world = world_of(3)
    world.run_until(kinds.StepReached, 3)
    (event,) = world.execute(report(world))
    assert isinstance(event, kinds.JobEvaluated)
    world.start()
    assert order(world).suites is None


def test_the_results_of_the_newest_jobs_are_kept() -> None:
    world = world_of()
    for number in range(RESULTS_KEPT + 2):
        world.add(1)
        world.run_until(kinds.StepReached)
        world.execute(report(world))
        world.run_until(kinds.JobTrained)
        assert len(world.state.evaluations.jobs) == min(number + 1, RESULTS_KEPT)


def test_an_evaluation_that_ends_the_worker_never_fails_the_job() -> None:
    """It may come at the very attempt that would be the last one."""
    world = world_of(3)
    for _ in range(ATTEMPTS_WITHOUT_PROGRESS - 1):
        world.run_until(kinds.AttemptStarted)
        world.lose_worker("code")
    world.run_until(kinds.StepReached)
    attempt = world.state.attempts.current
    assert attempt is not None
    world.execute(
        commands.ReportWorkerLost(attempt=attempt, failure="code", message="in an evaluation", phase="evaluate")
    )
    job = world.state.training.current
    assert job is not None
    assert job.evaluation.abandoned
    assert order(world).suites is None
    world.run()
    assert world.ends[job_id(1)] == ["JobTrained"]


def test_an_evaluation_of_another_step_is_illegal() -> None:
    world = world_of(3)
    world.run_until(kinds.StepReached, 2)
    fact = replace(report(world), step=1)
    event = kinds.JobEvaluated(job=job_id(1), **{name: getattr(fact, name) for name in fact.__struct_fields__})
    with pytest.raises(IllegalEvent):
        evolve(world.state, event)
