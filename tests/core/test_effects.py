"""State in, effects out: the pending work of each situation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core import commands, effects
from core.effects import next_effects
from core.topics.attempts import retry_wait_s
from core.topics.disk import MARGIN_BYTES
from events import kinds, messages
from events.evaluation import Suites
from events.event import Event
from events.samples import SampleBudget
from tests.core.world import ROOMY, START, World, job_id, settings

WAIT_S = retry_wait_s(1, attempt=1) or 0.0
"""After the first failure."""


def world(*files: int) -> World:
    """A running daemon with these files."""
    made = World()
    made.start()
    for steps in files:
        made.add(steps)
    return made


def after(event: type[Event], *asked: commands.Command) -> Callable[[], World]:
    """One job of four steps that has come so far, and then something is asked."""

    def situation() -> World:
        made = world(4)
        made.run_until(event)
        for command in asked:
            made.execute(command)
        return made

    return situation


def full(*asked: commands.Command) -> Callable[[], World]:
    """A file waits on a full disk, and a rejected one has not been moved; then something is asked."""

    def situation() -> World:
        made = world(0, 4)
        made.run_until(kinds.JobRejected)
        made.runs_out()
        for command in asked:
            made.execute(command)
        return made

    return situation


JOB = job_id(1)
AWAIT = effects.AwaitDiskSpace(wanted_bytes=MARGIN_BYTES)
TRAIN = effects.SendToWorker(
    message=messages.Train(
        attempt=1,
        checkpoint=None,
        global_step=0,
        step=0,
        until=4,
        carry_optimizer=True,
        samples=SampleBudget(),
        suites=Suites(rows_max=64, questions_max=16),
    )
)
YIELD = effects.SendToWorker(message=messages.Yield(attempt=1))
PAUSE, STOP, SKIP, RESUME = commands.Pause(), commands.Stop(alive=True), commands.Skip(), commands.Resume()


@pytest.mark.parametrize(
    ("situation", "pending_effects"),
    [
        (lambda: World(), ()),
        (lambda: world(), ()),
        (lambda: world(4), (effects.BeginAttempt(job=JOB),)),
        (
            after(kinds.AttemptStarted),
            (
                effects.SendToWorker(
                    message=messages.Prepare(attempt=1, job=JOB, name="file-1.jsonl", settings=settings())
                ),
            ),
        ),
        (after(kinds.JobPrepared), (TRAIN,)),
        (after(kinds.TrainingStarted), ()),
        (after(kinds.StepReached), ()),
        (after(kinds.AttemptStarted, PAUSE), (YIELD,)),
        (after(kinds.JobPrepared, PAUSE), (YIELD,)),
        (after(kinds.StepReached, PAUSE), (YIELD,)),
        (after(kinds.StepReached, STOP), (YIELD,)),
        (after(kinds.StepReached, SKIP), (YIELD,)),
        (after(kinds.StepReached, PAUSE, STOP), (YIELD,)),
        (after(kinds.JobPrepared, PAUSE, RESUME), (TRAIN,)),
        (after(kinds.JobTrained, PAUSE), ()),
        (after(kinds.JobTrained, STOP), (effects.StopProcess(),)),
        (after(kinds.JobTrained, PAUSE, STOP), (effects.StopProcess(),)),
        (full(), (AWAIT,)),
        (full(PAUSE), (AWAIT,)),
        (full(STOP), (effects.StopProcess(),)),
        (full(PAUSE, STOP), (effects.StopProcess(),)),
        (full(PAUSE, RESUME), (AWAIT,)),
    ],
)
def test_pending_work_follows_from_the_state_alone(
    situation: Callable[[], World], pending_effects: tuple[effects.AnyEffect, ...]
) -> None:
    """Asked once or again, the answer is the same."""
    state = situation().state
    assert next_effects(state, START) == pending_effects
    assert next_effects(state, START) == pending_effects


def test_a_resumed_job_continues_after_its_last_commit() -> None:
    """From the head's weights, at its own next step."""
    made = world(6)
    made.run_until(kinds.CheckpointCommitted)
    made.start()
    made.run_until(kinds.JobPrepared)
    (effect,) = made.pending_effects()
    assert isinstance(effect, effects.SendToWorker)
    order = effect.message
    assert isinstance(order, messages.Train)
    head = made.state.head.checkpoint
    assert head is not None
    assert (order.checkpoint, order.global_step, order.step, order.until) == (head.id, 2, 2, 6)


@pytest.mark.parametrize(("optimizer", "step", "carry"), [("carry", 0, True), ("reset", 0, False), ("reset", 2, True)])
def test_the_optimizer_starts_fresh_only_where_the_job_does(optimizer: str, step: int, carry: bool) -> None:
    """`reset` means with each file, not with each attempt."""
    from msgspec.structs import replace

    made = world()
    training = replace(settings().training, optimizer=optimizer)
    made.config = replace(settings(), training=training)
    made.add(6)
    made.run_until(kinds.JobPrepared)
    if step:
        made.run_until(kinds.CheckpointCommitted)
        made.start()
        made.run_until(kinds.JobPrepared)
    (effect,) = made.pending_effects()
    assert isinstance(effect, effects.SendToWorker)
    order = effect.message
    assert isinstance(order, messages.Train)
    assert (order.step, order.carry_optimizer) == (step, carry)


def test_a_failed_attempt_waits_and_nothing_overtakes_it() -> None:
    """What is begun is finished first, whatever priority comes in."""
    made = world(4)
    made.run_until(kinds.StepReached)
    made.lose_worker()
    made.add(1, "high")
    assert next_effects(made.state, START) == (effects.WaitUntil(at=START + WAIT_S),)
    assert next_effects(made.state, START + WAIT_S) == (effects.BeginAttempt(job=JOB),)


def test_a_clock_that_was_set_back_makes_nobody_wait_for_years() -> None:
    """A time further ahead than any wait is no time that is still to come."""
    made = world(4)
    made.run_until(kinds.StepReached)
    made.lose_worker()
    assert next_effects(made.state, START - 1_000_000) == (effects.BeginAttempt(job=JOB),)


def test_a_rejected_file_is_moved_whatever_else_is_pending() -> None:
    """Before the next job, before leaving, and while paused."""
    made = world(0, 4)
    made.run_until(kinds.JobRejected)
    move, begin = made.pending_effects()
    assert isinstance(move, effects.MoveRejected)
    assert begin == effects.BeginAttempt(job=job_id(2))
    made.execute(PAUSE)
    assert made.pending_effects() == (move,)
    made.execute(STOP)
    assert made.pending_effects() == (move, effects.StopProcess())


def test_work_that_waited_for_disk_space_is_pending_again_when_there_is_some() -> None:
    """The report of the rejected file first, and then the next job."""
    made = full()()
    made.execute(commands.ReportDiskFree(free_bytes=ROOMY))
    move, begin = made.pending_effects()
    assert isinstance(move, effects.MoveRejected)
    assert begin == effects.BeginAttempt(job=job_id(2))


def test_finding_room_does_not_unpause() -> None:
    """Only a person's `resume` does; and without room, that alone begins nothing."""
    made = full(PAUSE)()
    made.free_bytes = ROOMY
    made.run()
    assert made.state.disk.full is None
    assert made.state.daemon.status == "paused"
    assert made.state.attempts.current is None


def test_room_comes_before_a_wait() -> None:
    """A failed job that was to wait is not begun meanwhile, however late it gets."""
    made = world(4)
    made.run_until(kinds.StepReached)
    made.lose_worker()
    made.runs_out()
    assert next_effects(made.state, START + 1000) == (AWAIT,)
    made.execute(commands.ReportDiskFree(free_bytes=ROOMY))
    assert next_effects(made.state, START) == (effects.WaitUntil(at=START + WAIT_S),)


def test_an_attempt_that_an_earlier_keepstep_left_on_a_full_disk_is_ended_as_ever() -> None:
    """It journaled a full disk without ending the attempt; files are not moved meanwhile."""
    made = world(4)
    made.run_until(kinds.StepReached)
    made.happens(kinds.StorageExhausted(message="full", wanted_bytes=0))
    assert made.pending_effects() == ()
    made.execute(STOP)
    assert made.pending_effects() == (YIELD,)
    assert [type(event) for event in made.runs_out()] == [kinds.AttemptFailed]
    assert made.pending_effects() == (effects.StopProcess(),)


def test_an_attempt_that_is_asked_to_yield_and_then_resumed_starts_again() -> None:
    """The worker was asked already and yields; the job is in progress and comes back at once."""
    made = world(6)
    made.run_until(kinds.StepReached)
    made.execute(PAUSE)
    made.turn()
    made.execute(RESUME)
    made.run()
    made.check_timeline()
    assert made.ends == {JOB: ["JobTrained"]}


def test_a_worker_that_was_asked_to_yield_gets_no_more_orders() -> None:
    """Paused and resumed around the plan: training is pending, and the worker has `Yield` in its hands already.

    It answers that and then waits for the next attempt; a `Train` after it would be for an attempt that has ended.
    """
    made = world(4)
    made.turn()
    made.turn()
    assert made.worker is not None
    made.worker.act()
    made.execute(PAUSE)
    made.turn()
    made.receive()
    made.execute(RESUME)
    assert made.pending_effects() == (TRAIN,)
    made.run()
    made.check_timeline()
    assert made.ends == {JOB: ["JobTrained"]}


def test_an_order_to_train_carries_what_the_job_was_trained_in() -> None:
    """From its first start on; a new job has none, whatever the job before it was trained in."""
    made = world(4, 4)
    made.run_until(kinds.JobPrepared)
    assert trained_in(made) == {}
    made.run_until(kinds.TrainingStarted)
    assert made.state.training.current is not None
    environment = made.state.training.current.environment
    assert environment == made.state.training.environment != {}
    made.execute(commands.Pause())
    made.run_until(kinds.AttemptYielded)
    made.execute(commands.Resume())
    made.run_until(kinds.JobPrepared)
    assert trained_in(made) == environment
    made.run_until(kinds.JobTrained)
    made.run_until(kinds.JobPrepared)
    assert trained_in(made) == {}


def trained_in(made: World) -> dict[str, str]:
    """What the order that is due names."""
    (effect,) = next_effects(made.state, made.now)
    assert isinstance(effect, effects.SendToWorker)
    order = effect.message
    assert isinstance(order, messages.Train)
    return order.environment
