"""Samples of a running job: what they may cost, and that nothing which is trained depends on them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core import commands
from core.effect import SendToWorker
from core.errors import IllegalEvent, Refused
from core.evolve import evolve
from core.job import Job
from core.topics.attempts import ATTEMPTS_WITHOUT_PROGRESS
from core.topics.evaluation.samples import Samples, described, put_off_text
from events import kinds, messages
from events.kinds import SamplesAbandoned, SamplesFailed, SamplesGenerated, SamplesPutOff, SamplesRequested
from events.samples import SampleAnswer, SampleBudget
from tests.core.world import World, job_id

JOB = job_id(1)


def training(steps: int = 6, at: int = 3) -> World:
    """A job that has reached a step."""
    world = World()
    world.start()
    world.add(steps)
    world.run_until(kinds.StepReached, at)
    return world


def job(world: World) -> Job:
    found = world.state.training.current
    assert found is not None
    return found


def sampled(world: World, **changes: object) -> messages.Sampled:
    """A round where the world stands."""
    reached, attempt = world.state.attempts.reached, world.state.attempts.current
    assert attempt is not None
    fact = messages.Sampled(
        attempt=attempt,
        global_step=reached.global_step,
        step=reached.step,
        asked=False,
        answers=(),
        match="exact",
        think_tag="<think>",
        temperature=0.0,
        seed=1,
        tokens=10,
        seconds=0.25,
    )
    return replace(fact, **changes)


def failed(world: World, **changes: object) -> messages.SamplesFailed:
    fact = sampled(world)
    made = messages.SamplesFailed(
        attempt=fact.attempt,
        global_step=fact.global_step,
        step=fact.step,
        asked=False,
        failure="code",
        message="a bug",
        seconds=0.5,
    )
    return replace(made, **changes)


def order(world: World) -> messages.Train:
    """The next order to train, after the attempt ended."""
    world.start()
    world.run_until(kinds.JobPrepared)
    (effect,) = world.pending_effects()
    message = getattr(effect, "message", None)
    assert isinstance(message, messages.Train)
    return message


def test_a_round_is_journaled_and_its_cost_is_kept() -> None:
    """The next round is measured against the training since this one."""
    world = training()
    world.execute(sampled(world))
    trained_s = world.state.attempts.trained_s
    assert trained_s == pytest.approx(1.5)  # three steps of half a second
    assert world.state.samples == Samples(round_s=0.25, at_trained_s=trained_s, spent_s=0.25)
    assert job(world).evaluation.sampled_step == 3
    world.run_until(kinds.StepReached, 2)
    budget = order(world).samples
    assert budget == SampleBudget(sampled_to=3, trained_s=pytest.approx(1.0), round_s=0.25)


def test_seconds_of_training_count_over_all_jobs() -> None:
    """So that small jobs save up for a round."""
    world = training(steps=3)
    world.run()
    world.add(3)
    world.run_until(kinds.JobPrepared)
    (effect,) = world.pending_effects()
    assert isinstance(effect, SendToWorker)
    assert effect.message.samples.trained_s == pytest.approx(1.5)


def test_a_round_that_failed_costs_too_and_the_next_one_is_tried() -> None:
    """Its seconds say nothing about those of a whole one."""
    world = training()
    world.execute(failed(world))
    assert [event.message for event in world.journal if isinstance(event, SamplesFailed)] == ["a bug"]
    assert world.state.samples.spent_s == 0.5
    assert world.state.samples.round_s is None
    assert order(world).samples == SampleBudget(sampled_to=3)


def test_a_round_that_was_put_off_leaves_its_cost() -> None:
    """No later attempt begins one that it cannot afford."""
    world = training()
    reached = world.state.attempts.reached
    world.execute(
        messages.SamplesPutOff(
            attempt=sampled(world).attempt,
            global_step=reached.global_step,
            step=reached.step,
            round_s=8.5,
            trained_s=1.5,
            cost_max=0.01,
            next_step=1800,
        )
    )
    (event,) = [event for event in world.journal if isinstance(event, SamplesPutOff)]
    assert "they take about 8.5 s, more than 1 % of the training since the last ones" in put_off_text(event)
    assert "after step 1800" in put_off_text(event)
    assert "this job ends before" in put_off_text(replace(event, next_step=None))
    budget = order(world).samples
    assert budget is not None
    assert budget.round_s == 8.5


def test_a_request_is_for_the_next_step_of_the_job_that_runs() -> None:
    """It survives the attempt, and one round meets it."""
    world = training()
    world.execute(commands.RequestSamples(alive=True))
    assert world.state.samples.asked
    assert "already requested" in (world.refused(commands.RequestSamples(alive=True)) or "")
    message = order(world)
    assert message.samples is not None
    assert message.samples.asked
    world.run_until(kinds.StepReached)
    world.execute(sampled(world, asked=True))
    assert not world.state.samples.asked


def test_a_planned_round_does_not_meet_a_request() -> None:
    """It may have begun before the request came."""
    world = training()
    world.execute(commands.RequestSamples(alive=True))
    world.execute(sampled(world))
    assert world.state.samples.asked


@pytest.mark.parametrize("alive", [True, False])
def test_where_nothing_trains_a_request_is_refused(alive: bool) -> None:
    """In words, with the command that answers now."""
    world = training() if not alive else World()
    with pytest.raises(Refused, match=r"nothing trains now.*`keepstep ask`"):
        world.execute(commands.RequestSamples(alive=alive))


@pytest.mark.parametrize("failure", ["hang", "out_of_memory", "code", "driver"])
def test_a_worker_that_is_lost_in_a_round_costs_the_samples_of_the_job(failure: str) -> None:
    """The job continues without; a person can ask for some all the same."""
    world = training()
    world.execute(sampled(world))
    attempt = world.state.attempts.current
    lost = commands.ReportWorkerLost(attempt=attempt or 0, failure=failure, message="m", phase="sample")
    world.end_worker()
    world.execute(lost)
    assert [type(event) for event in world.journal[-2:]] == [SamplesAbandoned, kinds.AttemptFailed]
    world.now += 60
    world.run_until(kinds.JobPrepared)
    (effect,) = world.pending_effects()
    assert isinstance(effect, SendToWorker)
    assert effect.message.samples.abandoned
    world.execute(commands.RequestSamples(alive=True))
    (effect,) = world.pending_effects()
    assert isinstance(effect, SendToWorker)
    assert effect.message.samples.asked
    world.run()
    assert world.state.outcomes.counts.trained == 1


def test_samples_never_fail_a_job() -> None:
    """However often it failed before."""
    world = training()
    current = replace(job(world), failures=ATTEMPTS_WITHOUT_PROGRESS - 1)
    world.state = replace(world.state, training=world.state.training.with_current(current))
    attempt = world.state.attempts.current or 0
    world.end_worker()
    events = world.execute(commands.ReportWorkerLost(attempt=attempt, failure="hang", message="m", phase="sample"))
    assert [type(event) for event in events] == [SamplesAbandoned, kinds.AttemptFailed]


def test_a_worker_that_somebody_killed_in_a_round_is_tried_again() -> None:
    """Twice in a row is the samples' fault: a watchdog for memory may kill it."""
    world = training()
    attempt = world.state.attempts.current or 0
    world.end_worker()
    world.execute(commands.ReportWorkerLost(attempt=attempt, failure="killed", message="m", phase="sample"))
    assert not job(world).evaluation.samples_abandoned


def test_a_round_of_another_step_is_illegal() -> None:
    """And leaves the state as it was."""
    world = training()
    fact = sampled(world, step=2)
    fields = {name: getattr(fact, name) for name in fact.__struct_fields__}
    before = world.state
    with pytest.raises(IllegalEvent, match="is not the one that was reached"):
        evolve(world.state, SamplesGenerated(job=JOB, **fields))
    assert world.state == before
    with pytest.raises(IllegalEvent):
        evolve(World().state, SamplesRequested(job=JOB))


def test_a_round_in_words() -> None:
    """With the share of answers with a think tag, unless there is none to look for."""
    right = SampleAnswer(
        prompt_id="a", prompt="p", expected="e", answer="e", match=True, thinks=False, tokens=1, finish="end"
    )
    wrong = replace(right, match=False, thinks=True)
    world = training()
    fact = sampled(world, answers=(right, wrong))
    fields = {name: getattr(fact, name) for name in fact.__struct_fields__}
    event = SamplesGenerated(job=JOB, **fields)
    assert described(event) == "samples after step 3: 1 of 2 as expected, 1 of 2 with <think> (0.2 s)"
    assert "think" not in described(replace(event, think_tag=""))
