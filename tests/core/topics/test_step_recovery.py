"""Steps that could not be done as planned: what is decided, and what becomes of job, trail and lineage."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core import commands, effects
from core.errors import IllegalEvent
from core.evolve import evolve
from core.job import Job
from core.topics.step_recovery import FIRST_STEPS, LONGEST_STEPS, next_split
from events import kinds, messages
from events.course import Course, Split
from events.kinds import BatchSkipped, MicrobatchSplit
from tests.core.simulated_worker import bits
from tests.core.world import World, job_id, settings

N = FIRST_STEPS
ONCE = Course(splits=(Split(step=10, parts=2, steps=N),))
TWICE = Course(splits=(*ONCE.splits, Split(step=20, parts=4, steps=2 * N)))


JOB = job_id(1)


def home_with(steps: int, *, room: dict[int, int] | None = None, poisoned: tuple[int, ...] = ()) -> World:
    """A daemon with one file, some of whose steps do not fit or run away."""
    world = World()
    world.room = {(JOB, step): sequences for step, sequences in (room or {}).items()}
    world.poisoned = {(JOB, step) for step in poisoned}
    world.start()
    world.add(steps)
    return world


def current(world: World) -> Job:
    job = world.state.training.current
    assert job is not None
    return job


def run_all_again(world: World) -> None:
    """Every checkpoint is damaged."""
    for checkpoint in reversed(world.state.head.checkpoints):
        world.execute(commands.QuarantineCheckpoint(checkpoint=checkpoint.id, problem="rot"))
    world.run()


def losses(world: World) -> list[object]:
    """The last loss of each global step."""
    found = {event.global_step: event.loss for event in world.journal if isinstance(event, kinds.StepReached)}
    return [found[step] for step in sorted(found)]


def count(world: World, kind: type) -> int:
    return sum(isinstance(event, kind) for event in world.journal)


def shortage(world: World, *, sequences: int = 4, during: str = "gradients") -> messages.OutOfMemory:
    reached = world.state.attempts.reached
    assert world.state.attempts.current is not None
    return messages.OutOfMemory(
        attempt=world.state.attempts.current,
        global_step=reached.global_step + 1,
        step=reached.step + 1,
        sequences=sequences,
        during=during,
        message="no memory",
    )


def suspect(world: World) -> messages.BatchSuspect:
    reached = world.state.attempts.reached
    assert world.state.attempts.current is not None
    return messages.BatchSuspect(
        attempt=world.state.attempts.current,
        global_step=reached.global_step + 1,
        step=reached.step + 1,
        loss="NaN",
        grad_norm=1.0,
        suspicion="not_finite",
        message="loss NaN",
        lines=tuple(range(1, 20)),
        earlier={},
    )


# -- memory ---------------------------------------------------------------------------------------------------------


def test_a_step_is_halved_until_it_fits_and_nothing_is_begun_again() -> None:
    """One attempt, every step once."""
    world = home_with(6, room={3: 1})
    world.run()
    assert count(world, MicrobatchSplit) == 2
    assert (count(world, kinds.AttemptStarted), count(world, kinds.StepReached)) == (1, 6)
    assert losses(world) == [bits(JOB, step, 1, 4 if step >= 3 else 1)[0] for step in range(1, 7)]


def test_later_orders_for_the_job_have_its_course_and_those_for_others_do_not() -> None:
    world = home_with(4, room={3: 2})
    world.run_until(kinds.StepReached, 3)
    course = Course(splits=(Split(step=3, parts=2, steps=64),))
    assert current(world).course == course
    world.start()
    world.run_until(kinds.JobPrepared)
    assert [
        effect.message.course
        for effect in world.pending_effects()
        if isinstance(effect, effects.SendToWorker) and isinstance(effect.message, messages.Train)
    ] == [course]
    world.run()
    world.add(1)
    world.run_until(kinds.JobPrepared)
    assert [
        effect.message.course
        for effect in world.pending_effects()
        if isinstance(effect, effects.SendToWorker) and isinstance(effect.message, messages.Train)
    ] == [Course()]


def test_steps_that_were_reached_whole_and_are_split_now_are_no_divergence() -> None:
    """They were not committed, and the memory was there the first time: nothing that is kept comes out otherwise."""
    world = home_with(6)
    world.config = settings(every_steps=9)
    world.run_until(kinds.StepReached, 5)
    world.room = {(JOB, 3): 2}
    world.start()
    world.run()
    assert count(world, MicrobatchSplit) == 1
    assert count(world, kinds.DivergenceDetected) == 0
    assert world.ends[JOB] == ["JobTrained"]


def test_committed_steps_that_are_run_again_otherwise_are_a_divergence() -> None:
    """They are lost, and do not come back as they were: that must be seen."""
    world = home_with(4)
    world.config = settings(every_steps=2, keep=9)
    world.run()
    world.spoiled = {each.id for each in world.state.head.checkpoints}
    for checkpoint in reversed(world.state.head.checkpoints):
        world.execute(commands.QuarantineCheckpoint(checkpoint=checkpoint.id, problem="rot"))
    world.room = {(JOB, 3): 2}
    world.run()
    assert count(world, kinds.DivergenceDetected) == 2


def test_committed_steps_that_are_run_again_are_cut_as_they_were() -> None:
    world = home_with(6, room={3: 1})
    world.config = settings(every_steps=2, keep=9)
    world.run()
    before = losses(world)
    run_all_again(world)
    assert losses(world) == before
    assert (count(world, MicrobatchSplit), count(world, kinds.DivergenceDetected)) == (2, 0)
    assert world.state.head.global_step == 6


def test_within_an_update_the_attempt_ends_too_and_the_next_is_cut_from_there() -> None:
    world = home_with(4)
    world.run_until(kinds.StepReached, 3)
    next_split, failed = world.execute(shortage(world, during="update"))
    assert isinstance(next_split, MicrobatchSplit)
    assert isinstance(failed, kinds.AttemptFailed)
    assert (failed.failure, world.state.attempts.current, world.state.head.global_step) == ("out_of_memory", None, 2)
    world.run()
    assert losses(world)[3] == bits(JOB, 4, 1, 2)[0]


def test_one_sequence_that_does_not_fit_fails_with_advice() -> None:
    world = home_with(4)
    world.run_until(kinds.StepReached)
    (failed,) = world.execute(shortage(world, sequences=1))
    assert isinstance(failed, kinds.AttemptFailed)
    assert failed.failure == "out_of_memory"
    assert "one row alone does not fit" in failed.message
    assert "max_length" in failed.message


def test_other_settings_begin_without_the_course() -> None:
    """Nothing is committed, and other micro-batches may fit."""
    world = home_with(4, room={1: 2})
    world.run_until(kinds.StepReached)
    world.config = settings(seed=2)
    world.room = {}
    world.start()
    world.run()
    assert losses(world)[0] == bits(JOB, 1, 2)[0]


@pytest.mark.parametrize("off", [-1, 1])
def test_a_shortage_at_a_step_that_is_not_the_next_is_a_broken_worker(off: int) -> None:
    world = home_with(4)
    world.run_until(kinds.StepReached, 2)
    fact = shortage(world)
    (failed,) = world.execute(replace(fact, step=fact.step + off, global_step=fact.global_step + off))
    assert isinstance(failed, kinds.AttemptFailed)
    assert failed.failure == "code"


def test_what_an_earlier_attempt_says_changes_nothing() -> None:
    world = home_with(4)
    world.run_until(kinds.StepReached)
    late, later = shortage(world), suspect(world)
    world.start()
    world.run_until(kinds.StepReached)
    assert world.execute(late) == []
    assert world.execute(later) == []


def test_while_it_is_to_pause_a_step_that_does_not_fit_is_halved_all_the_same() -> None:
    """The worker waits for an answer before it can see that it is to yield."""
    world = home_with(6, room={3: 2})
    world.run_until(kinds.StepReached, 2)
    world.execute(commands.Pause())
    world.run()
    assert world.state.daemon.status == "paused"
    world.execute(commands.Resume())
    world.run()
    assert world.ends[JOB] == ["JobTrained"]


# -- loss -----------------------------------------------------------------------------------------------------------


def test_a_suspect_batch_is_left_out_from_the_last_commit_on() -> None:
    world = home_with(6, poisoned=(4,))
    world.run_until(BatchSkipped)
    assert current(world).course.skipped == (4,)
    world.run()
    assert losses(world) == ["NaN" if step == 4 else bits(JOB, step, 1)[0] for step in range(1, 7)]
    assert (count(world, BatchSkipped), count(world, kinds.DivergenceDetected)) == (1, 0)
    assert world.state.head.global_step == 6


def test_it_is_left_out_at_once_without_a_wait() -> None:
    world = home_with(4)
    world.run_until(kinds.StepReached)
    _, failed = world.execute(suspect(world))
    assert isinstance(failed, kinds.AttemptFailed)
    assert (failed.failure, failed.retry_at) == ("loss", world.now)
    assert isinstance(world.pending_effects()[0].job, str)


def test_a_second_one_ends_the_job_and_says_what_to_do() -> None:
    world = home_with(6, poisoned=(2, 5))
    world.run()
    failed = world.journal[-1]
    assert isinstance(failed, kinds.JobFailed)
    assert "Look at lines 17, 20" in failed.message
    assert f"`keepstep retry {JOB[:12]}`" in failed.message
    assert world.state.head.global_step == 4


def test_of_a_long_batch_a_few_lines_are_named() -> None:
    world = home_with(6, poisoned=(1,))
    world.run_until(BatchSkipped)
    world.run_until(kinds.StepReached)
    _, failed = world.execute(suspect(world))
    assert isinstance(failed, kinds.JobFailed)
    assert "lines 1, 2, 3, 4, 5, 6, 7, 8, …, or" in failed.message


def test_a_person_can_retry_it_without_that_batch_too() -> None:
    world = home_with(6, poisoned=(2, 5))
    world.run()
    world.execute(commands.Retry(job=JOB))
    world.run()
    assert world.ends[JOB] == ["JobTrained"]
    assert count(world, BatchSkipped) == 2


def test_no_batch_is_skipped_of_a_job_that_is_to_be_skipped() -> None:
    world = home_with(4)
    world.run_until(kinds.StepReached)
    world.execute(commands.Skip(job=JOB))
    failed, skipped = world.execute(suspect(world))
    assert isinstance(failed, kinds.AttemptFailed)
    assert isinstance(skipped, kinds.JobSkipped)


def test_committed_steps_are_never_left_out_when_they_are_run_again() -> None:
    """Others were built on them as they were: a person has to look."""
    world = home_with(4)
    world.run()
    head = world.state.head.checkpoint
    assert head is not None
    world.execute(commands.QuarantineCheckpoint(checkpoint=head.id, problem="rot"))
    world.poisoned = {(JOB, 4)}
    world.run()
    assert count(world, BatchSkipped) == 0
    assert count(world, kinds.AttemptFailed) == 5
    assert world.state.daemon.hold is not None
    assert "committed steps of file-1.jsonl are lost" in world.state.daemon.hold.reason
    aside = BatchSkipped(
        job=JOB,
        attempt=world.state.attempts.last,
        global_step=4,
        step=4,
        loss="NaN",
        grad_norm=1.0,
        suspicion="spike",
        message="",
        lines=(),
        earlier={},
    )
    with pytest.raises(IllegalEvent):
        evolve(world.state, aside)


def test_committed_steps_that_were_left_out_are_left_out_again() -> None:
    world = home_with(6, poisoned=(4,))
    world.config = settings(every_steps=2, keep=9)
    world.run()
    before = losses(world)
    run_all_again(world)
    assert losses(world) == before
    assert (count(world, BatchSkipped), count(world, kinds.DivergenceDetected)) == (1, 0)


@pytest.mark.parametrize(
    ("course", "step", "sequences", "expected"),
    [
        (Course(), 10, 4, Split(step=10, parts=2, steps=N)),
        (Course(), 10, 2, Split(step=10, parts=2, steps=N)),
        (Course(), 10, 1, None),
        (ONCE, 10, 2, Split(step=10, parts=4, steps=N)),
        (ONCE, 10, 1, None),
        (ONCE, 30, 2, Split(step=30, parts=4, steps=2 * N)),
        (ONCE, 10 + N, 4, Split(step=10 + N, parts=2, steps=2 * N)),
        (TWICE, 20 + 2 * N, 4, Split(step=20 + 2 * N, parts=4, steps=4 * N)),
        (TWICE, 5, 4, Split(step=5, parts=2, steps=N)),
    ],
    ids=[
        "whole → halves",
        "a pair → one each",
        "one alone: nothing to cut",
        "the same step again: smaller, as long",
        "the same step again, one alone",
        "a heavier batch while it is split",
        "tried whole again in vain: twice as long",
        "tried larger again in vain",
        "an earlier step, run again",
    ],
)
def test_a_step_is_run_again_in_half(course: Course, step: int, sequences: int, expected: Split | None) -> None:
    """And each further time it takes twice as long before larger parts are tried."""
    assert next_split(course, step, sequences) == expected


def test_a_job_that_never_fits_whole_tries_it_a_few_times_only() -> None:
    """In a million steps: less than twenty in vain, and a table that stays as short."""
    course, step, tries = Course(), 1, 0
    while step < 1_000_000:
        if course.parts_at(step) == 1:
            split = next_split(course, step, 2)
            assert split is not None
            course, tries = course.with_split(split), tries + 1
            step += split.steps
    assert tries == len(course.splits) < 20


def test_it_never_takes_longer_than_the_longest() -> None:
    """A number that stays one, however many splits there were."""
    many = Course(splits=tuple(Split(step=step, parts=2, steps=1) for step in range(1, 100)))
    split = next_split(many, 200, 2)
    assert split is not None
    assert split.steps == LONGEST_STEPS
