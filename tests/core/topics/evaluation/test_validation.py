"""The loss that a validation loss is compared with. Nothing that is trained depends on either."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from core import commands
from core.errors import IllegalEvent
from core.evolve import evolve
from core.job import Evaluation, Job
from core.topics.evaluation.validation import AT_FAULT, concern_of, described, gap_of, is_worse
from events import kinds, messages
from events.kinds import EvaluationAbandoned, EvaluationDone
from events.settings import EvaluationSettings
from events.values import Concern, Failure, Number
from tests.core.world import World, job_id, settings

JOB = job_id(1)
LIMITS = EvaluationSettings(gap_warn=0.3, gap_alert=0.5)


def home_with(steps: int, **validation: float) -> World:
    """A daemon with one file, some of whose rows are held out."""
    world = World()
    world.config = settings(held_out=True)
    world.start()
    world.add(steps)
    return world


def current(world: World) -> Job:
    job = world.state.training.current
    assert job is not None
    return job


def found(world: World) -> list[EvaluationDone]:
    return [event for event in world.journal if isinstance(event, EvaluationDone)]


def done(world: World, **changes: object) -> EvaluationDone:
    """An evaluation where the world stands."""
    reached = world.state.attempts.reached
    assert world.state.attempts.current is not None
    event = EvaluationDone(
        job=JOB,
        attempt=world.state.attempts.current,
        global_step=reached.global_step,
        step=reached.step,
        rows=4,
        tokens=40,
        loss=1.0,
        training_loss=1.0,
        seconds=0.1,
        concern=None,
    )
    return replace(event, **changes)


@pytest.mark.parametrize(
    ("loss", "training_loss", "lowest", "concern"),
    [
        (2.0, None, None, None),  # at the beginning
        (2.0, 1.0, None, None),  # the first: nothing to have risen from
        (2.0, 1.0, 2.0, None),  # as low as ever, however far above
        (2.0, 1.0, 1.9, "wide_gap"),
        (2.0, 1.5, 1.9, "gap"),  # 0.5 is not above 0.5
        (2.0, 1.75, 1.9, None),
        (2.0, 2.5, 1.9, None),  # risen, and training is no better
        (2.0, "NaN", 1.9, None),
        ("NaN", 1.0, 1.9, "not_finite"),
        ("Infinity", None, None, "not_finite"),
    ],
)
def test_a_loss_is_of_concern_when_it_rises_and_is_far_above(
    loss: Number, training_loss: Number | None, lowest: float | None, concern: Concern | None
) -> None:
    """Either alone is not; no number always is."""
    assert concern_of(loss, training_loss, lowest, LIMITS) == concern


def test_only_a_change_for_the_worse_is_reported() -> None:
    """And each of them."""
    rising: list[Concern | None] = [None, "gap", "wide_gap", "not_finite"]
    for before, earlier in enumerate(rising):
        for now, later in enumerate(rising):
            assert is_worse(later, earlier) == (now > before)


def test_what_was_found_is_a_sentence() -> None:
    """With the gap, where there is one."""
    event = EvaluationDone(
        job=JOB,
        attempt=1,
        global_step=9,
        step=7,
        rows=4,
        tokens=40,
        loss=2.0,
        training_loss=1.25,
        seconds=1,
        concern=None,
    )
    assert described(event) == "validation loss 2.0000 after step 7 (training loss 1.2500, gap +0.75)"
    assert described(replace(event, loss="NaN", concern="not_finite")) == (
        "validation loss NaN after step 7; it is not finite"
    )
    assert gap_of("NaN", 1.0) is gap_of(1.0, "NaN") is gap_of(1.0, None) is None


def test_a_job_is_evaluated_at_its_beginning_on_its_way_and_at_its_end() -> None:
    """Once each, and it remembers the lowest."""
    world = home_with(5)
    world.validation = {2: 0.5, 4: 0.75}
    world.run_until(EvaluationDone, 3)
    assert current(world).evaluation == Evaluation(step=4, lowest=0.5, concern=found(world)[-1].concern)
    world.run()
    assert [event.step for event in found(world)] == [0, 2, 4, 5]
    assert world.state.outcomes.counts.trained == 1


def test_where_no_row_is_held_out_nothing_is_evaluated() -> None:
    """Or where the config wants none."""
    for config in (settings(), replace(settings(held_out=True), evaluation=EvaluationSettings(rows=0))):
        world = World()
        world.config = config
        world.start()
        world.add(3)
        world.run()
        assert found(world) == []
        assert world.state.outcomes.counts.trained == 1


def test_after_steps_that_run_again_nothing_is_evaluated_again() -> None:
    """They give the same weights, so it would find the same."""
    world = home_with(6)
    world.run_until(EvaluationDone, 3)
    world.start()
    world.run()
    assert [event.step for event in found(world)] == [0, 2, 4, 6]


def test_after_steps_that_differ_it_is() -> None:
    """A batch that is left out changes the weights after it."""
    world = home_with(6)
    world.config = settings(held_out=True, every_steps=100)
    world.run_until(EvaluationDone, 3)  # 0, 2, 4, and nothing committed
    world.start()
    world.poisoned = {(JOB, 4)}
    world.run()
    assert [event.step for event in found(world)] == [0, 2, 4, 4, 6]


def test_other_settings_start_fresh() -> None:
    """As long as nothing is committed, an attempt takes those of the file."""
    world = home_with(6)
    world.config = settings(held_out=True, every_steps=100)
    world.run_until(EvaluationDone, 2)
    world.start()
    world.config = settings(held_out=True, seed=2)
    world.run()
    assert [event.step for event in found(world)] == [0, 2, 0, 2, 4, 6]


@pytest.mark.parametrize("failure", sorted(AT_FAULT))
def test_a_failure_in_an_evaluation_is_the_end_of_evaluations_and_not_of_the_job(failure: Failure) -> None:
    """Whether the worker said so, or was lost."""
    for lost in (
        commands.ReportWorkerLost(attempt=1, failure=failure, message="it hung", phase="evaluate"),
        messages.Failed(attempt=1, failure=failure, message="it hung", trace="", phase="evaluate"),
    ):
        world = home_with(4)
        world.run_until(EvaluationDone, 2)
        world.execute(lost)
        abandoned, failed = world.journal[-2:]
        assert isinstance(abandoned, EvaluationAbandoned)
        assert isinstance(failed, kinds.AttemptFailed)
        assert current(world).evaluation.abandoned
        world.run()
        assert world.state.outcomes.counts.trained == 1
        assert len(found(world)) == 2


def test_a_failure_elsewhere_leaves_evaluations_be() -> None:
    """So does one that no evaluation can be the cause of."""
    for lost in (
        commands.ReportWorkerLost(attempt=1, failure="hang", message="it hung"),
        commands.ReportWorkerLost(attempt=1, failure="killed", message="somebody did it", phase="evaluate"),
    ):
        world = home_with(4)
        world.run_until(EvaluationDone, 2)
        world.execute(lost)
        assert not current(world).evaluation.abandoned
        world.run()
        assert [event.step for event in found(world)] == [0, 2, 4]


def fail_after_evaluations(world: World, evaluations: int) -> None:
    """The job fails permanently, after so many evaluations."""
    world.run_until(EvaluationDone, evaluations)
    while world.state.training.current is not None:
        world.lose_worker("code")
        if world.state.training.current is not None:
            world.run_until(kinds.AttemptStarted)


def test_a_retry_after_other_files_evaluates_steps_that_differ() -> None:
    """Its steps are run again on other weights than those that were evaluated."""
    world = home_with(6)
    world.config = settings(held_out=True, every_steps=100)
    fail_after_evaluations(world, 3)  # 0, 2, 4, and nothing committed
    world.add(2)
    world.run()
    world.execute(commands.Retry(job=JOB))
    world.run()
    assert [event.step for event in found(world) if event.job == JOB] == [0, 2, 4, 0, 2, 4, 6]


def test_a_job_that_starts_again_after_a_rollback_is_evaluated_again() -> None:
    """What it was measured by stood on another head."""
    world = home_with(2)
    world.run()
    world.execute(commands.RequestConsolidation(description=""))
    world.run()
    job = world.add(6)
    world.config = settings(held_out=True, every_steps=2)
    fail_after_evaluations(world, 3)
    world.execute(commands.Retry(job=job))
    world.execute(commands.RollBack())
    before = len(found(world))
    world.run()
    assert [event.step for event in found(world)[before:]] == [0, 2, 4, 6]


def test_a_worker_that_is_killed_twice_in_evaluations_is_enough() -> None:
    """The first time it may have been anybody; the second time it may be somebody who looks after memory."""
    world = home_with(4)
    world.config = settings(held_out=True, every_steps=100)
    for attempt in (1, 2):
        world.run_until(EvaluationDone, 2 if attempt == 1 else 0)
        world.execute(
            commands.ReportWorkerLost(attempt=attempt, failure="killed", message="somebody", phase="evaluate")
        )
        assert current(world).evaluation.abandoned == (attempt == 2)
        world.run_until(kinds.TrainingStarted)
    world.run()
    assert world.state.outcomes.counts.trained == 1


def test_a_retry_evaluates_again() -> None:
    """A person has looked at it, and what it begins on may be another head."""
    world = home_with(4)
    world.run_until(EvaluationDone, 1)
    lost = commands.ReportWorkerLost(attempt=1, failure="hang", message="it hung", phase="evaluate")
    world.execute(lost)
    while world.state.training.current is not None:
        world.run_until(kinds.AttemptStarted)
        assert world.state.attempts.current is not None
        world.execute(replace(lost, attempt=world.state.attempts.current))
    world.execute(commands.Retry(job=JOB))
    world.run()
    assert [event.step for event in found(world)] == [0, 0, 2, 4]


def test_an_evaluation_of_another_step_is_illegal_and_changes_nothing() -> None:
    """It is of the step that was reached, and of a job that trains."""
    world = home_with(4)
    world.run_until(kinds.StepReached, 1)
    before = world.state
    for wrong in (done(world, step=2), done(world, global_step=2), done(world, attempt=7), done(world, job=job_id(2))):
        with pytest.raises(IllegalEvent):
            evolve(world.state, wrong)
    assert world.state == before
    assert evolve(world.state, done(world)).training.current != before.training.current


def test_a_worker_that_says_what_cannot_be_has_failed() -> None:
    """As with every other fact."""
    world = home_with(4)
    world.run_until(kinds.StepReached, 1)
    assert world.state.attempts.current is not None
    world.execute(
        messages.Evaluated(
            attempt=world.state.attempts.current,
            global_step=99,
            step=99,
            rows=1,
            tokens=1,
            loss=math.e,
            training_loss=None,
            seconds=0.1,
        )
    )
    assert isinstance(world.journal[-1], kinds.AttemptFailed)
