"""How long the worker may go without progress, as tables of cases."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core import commands, deadlines
from core.deadlines import GAPS_KEPT, GAPS_WANTED, START_S, Late, Limits, Phase, Watched, deadline_s, late, usual_s
from core.state import State
from events import kinds, messages
from events.settings import JobSettings, ModelSettings, TrainingSettings
from tests.core.world import World

LIMITS = Limits(times=10.0, step_least_s=120.0, least_s=600.0, most_s=1800.0)
SETTINGS = JobSettings(model=ModelSettings(path="tiny"))
PREPARE = messages.Prepare(attempt=1, job="a" * 64, settings=SETTINGS)
TRAIN = messages.Train(attempt=1, global_step=0, step=0, until=9, checkpoint=None, carry_optimizer=True)
LOADED = messages.Loaded(attempt=1, environment={})
SAVED = messages.CheckpointWritten(
    attempt=1,
    checkpoint="step-00000001-attempt-0001",
    global_step=1,
    step=1,
    parent=None,
    size_bytes=1,
    manifest_sha256="",
    reason="steps",
)

EVALUATED = messages.Evaluated(
    attempt=1, global_step=0, step=0, rows=1, tokens=1, loss=1.0, training_loss=None, seconds=1.0
)


def beat(phase: messages.Phase, attempt: int = 1) -> messages.Heartbeat:
    """A sign of progress."""
    return messages.Heartbeat(attempt=attempt, phase=phase, done=1, total=2)


def step(number: int = 1) -> messages.Step:
    """A step is done."""
    return messages.Step(
        attempt=1,
        global_step=number,
        step=number,
        epoch=1,
        loss=1.0,
        grad_norm=1.0,
        learning_rate=1e-4,
        tokens=1,
        seconds=1.0,
    )


def watched(*timeline: messages.AnyFact | messages.AnyOrder | float, before: Watched | None = None) -> Watched:
    """A worker that is up, to which all this happens; a number is seconds that pass."""
    now = deadlines.is_up(before or Watched())
    for each in timeline:
        if isinstance(each, float):
            now = deadlines.passed(now, each)
        elif isinstance(each, messages.Order):
            now = deadlines.ordered(now, each)
        else:
            now = deadlines.received(now, each)
    return now


def training(gap_s: float = 1.0, before: Watched | None = None) -> Watched:
    """A worker that has made enough steps for their deadline to be measured."""
    steps = [each for number in range(GAPS_WANTED) for each in (gap_s, step(number + 1))]
    return watched(PREPARE, 1.0, beat("prepare"), TRAIN, 1.0, LOADED, *steps, before=before)


@pytest.mark.parametrize(
    ("phase", "gaps", "failures", "seconds"),
    [
        ("step", [], 0, 1800.0),  # nothing is known: the cap
        ("step", [1.0] * (GAPS_WANTED - 1), 0, 1800.0),  # too little is
        ("step", [1.0] * GAPS_WANTED, 0, 120.0),  # ten times as long is below the floor
        ("step", [30.0] * GAPS_WANTED, 0, 300.0),
        ("step", [1.0] * 20 + [40.0], 0, 400.0),  # the slow ones are what counts
        ("step", [1.0] * 250 + [900.0], 0, 120.0),  # but not one in so many
        ("step", [1000.0] * GAPS_WANTED, 0, 1800.0),  # the cap
        ("load", [1.0] * GAPS_WANTED, 0, 600.0),  # a disk has its own floor
        ("prepare", [1.0] * GAPS_WANTED, 0, 600.0),
        ("checkpoint", [1.0] * GAPS_WANTED, 0, 600.0),
        ("consolidate", [100.0] * GAPS_WANTED, 0, 1000.0),
        ("evaluate", [1.0] * GAPS_WANTED, 0, 120.0),  # some rows are as alike as steps
        ("step", [1.0] * GAPS_WANTED, 1, 240.0),  # twice as long after each failure
        ("step", [1.0] * GAPS_WANTED, 3, 960.0),
        ("step", [1.0] * GAPS_WANTED, 4, 1800.0),  # up to the cap
        ("step", [1.0] * GAPS_WANTED, 10_000, 1800.0),
        ("start", [], 0, START_S),
        ("start", [], 2, 4 * START_S),
    ],
)
def test_a_deadline(phase: Phase, gaps: list[float], failures: int, seconds: float) -> None:
    """A multiple of what is usual, within floor and cap; longer, the more often it was not met."""
    assert deadline_s(phase, gaps, LIMITS, failures) == seconds


def test_a_cap_below_the_floor_is_the_deadline() -> None:
    """What a person allows at most is never exceeded."""
    assert deadline_s("step", [1.0] * 20, replace(LIMITS, most_s=5.0), 0) == 5.0


@pytest.mark.parametrize(
    ("timeline", "phase"),
    [
        ((PREPARE,), "load"),
        ((PREPARE, beat("prepare")), "prepare"),
        ((PREPARE, TRAIN), "load"),
        ((PREPARE, TRAIN, LOADED), "step"),
        ((PREPARE, TRAIN, LOADED, beat("step")), "step"),
        ((PREPARE, TRAIN, LOADED, beat("evaluate")), "evaluate"),
        ((PREPARE, TRAIN, LOADED, beat("evaluate"), EVALUATED), "step"),
        ((PREPARE, TRAIN, LOADED, step(), beat("checkpoint"), beat("evaluate")), "checkpoint"),
        ((PREPARE, TRAIN, LOADED, step(), beat("checkpoint")), "checkpoint"),
        ((PREPARE, TRAIN, LOADED, step(), beat("checkpoint"), beat("step"), step(2)), "checkpoint"),
        ((PREPARE, TRAIN, LOADED, step(), beat("checkpoint"), SAVED), "step"),
        ((PREPARE, TRAIN, LOADED, messages.Yield(attempt=1)), "step"),
    ],
)
def test_what_a_silent_worker_is_late_with(
    timeline: tuple[messages.AnyFact | messages.AnyOrder, ...], phase: Phase
) -> None:
    """Saving and loading have their own deadlines; a save that hangs is seen though steps continue."""
    found = late(watched(*timeline, 1801.0), LIMITS, 0)
    assert found is not None
    assert found.phase == phase


def test_a_save_that_hangs_is_late_though_steps_continue() -> None:
    """A separate thread writes it."""
    now = watched(beat("checkpoint"), before=training())
    for number in range(181):
        now = watched(10.0, step(number), before=now)
    found = late(now, LIMITS, 0)
    assert found is not None
    assert (found.phase, found.silence_s) == ("checkpoint", 1810.0)


def test_steps_are_trained_while_a_checkpoint_is_written() -> None:
    """Or a model that is always being saved would never be known."""
    now = watched(PREPARE, TRAIN, LOADED, beat("checkpoint"))
    for number in range(GAPS_WANTED):
        now = watched(1.0, step(number + 1), before=now)
    assert late(watched(SAVED, 121.0, before=now), LIMITS, 0) == Late("step", 121.0, 120.0, 1.0)


def test_a_long_save_is_no_hang_of_the_step_that_waits_for_it() -> None:
    """A step may take two minutes, this save takes ten; and after it the step has its time again."""
    now = watched(beat("checkpoint"), 590.0, before=training())
    assert late(now, LIMITS, 0) is None
    now = watched(SAVED, 119.0, before=now)
    assert late(now, LIMITS, 0) is None
    found = late(watched(2.0, before=now), LIMITS, 0)
    assert found == Late("step", 121.0, 120.0, 1.0)


def test_a_hung_step_is_late_as_soon_as_the_save_next_to_it_is_done() -> None:
    """And one deadline later."""
    now = watched(beat("checkpoint"), 5.0, SAVED, 121.0, before=training())
    assert late(now, LIMITS, 0) is not None


def test_an_evaluation_is_held_to_what_steps_take_until_it_is_known_itself() -> None:
    """The first one that hangs is found out as soon as a step would be."""
    now = watched(beat("evaluate"), 121.0, before=training())
    assert late(now, LIMITS, 0) == Late("evaluate", 121.0, 120.0, 1.0)
    beats = [each for _ in range(GAPS_WANTED) for each in (30.0, beat("evaluate"))]
    now = watched(beat("evaluate"), *beats, 299.0, before=training())
    assert late(now, LIMITS, 0) is None
    assert late(watched(2.0, before=now), LIMITS, 0) == Late("evaluate", 301.0, 300.0, 30.0)


def test_a_worker_that_dies_in_an_evaluation_is_seen_while_a_checkpoint_is_written() -> None:
    """Both follow the same step. A save that hangs then is late as a save."""
    begun = (PREPARE, TRAIN, LOADED, step())
    assert watched(*begun, beat("evaluate")).phase == "evaluate"
    assert watched(*begun, beat("evaluate"), EVALUATED).phase != "evaluate"
    assert watched(*begun, beat("checkpoint"), beat("evaluate")).phase == "evaluate"
    assert watched(*begun, beat("checkpoint"), beat("evaluate"), SAVED).phase == "evaluate"


def test_a_late_word_of_another_attempt_proves_nothing() -> None:
    """The running one is as silent as before."""
    now = watched(1801.0, beat("step", attempt=0), before=training())
    assert late(now, LIMITS, 0) is not None


def test_a_worker_that_does_not_come_up_has_its_own_deadline() -> None:
    """Whatever it was told to do meanwhile."""
    now = deadlines.passed(deadlines.ordered(Watched(), PREPARE), START_S)
    assert late(now, LIMITS, 0) is None
    found = late(deadlines.passed(now, 1.0), LIMITS, 0)
    assert found is not None
    assert found.phase == "start"
    assert late(deadlines.is_up(deadlines.passed(now, 1.0)), LIMITS, 0) is None


def test_measured_gaps_outlive_a_worker_and_harmless_changes() -> None:
    """The next worker, the next file: the same model, the same steps."""
    again = deadlines.is_up(deadlines.restarted(training()))
    cadence = replace(SETTINGS, checkpoints=replace(SETTINGS.checkpoints, every_steps=7))
    again = watched(replace(PREPARE, settings=cadence), TRAIN, LOADED, 121.0, before=again)
    assert late(again, LIMITS, 0) == Late("step", 121.0, 120.0, 1.0)


@pytest.mark.parametrize(
    "changed",
    [
        replace(SETTINGS, model=ModelSettings(path="large")),
        replace(SETTINGS, training=TrainingSettings(batch_size=64)),
        replace(SETTINGS, data=replace(SETTINGS.data, max_length=9)),
    ],
)
def test_measured_gaps_of_another_model_are_forgotten(changed: JobSettings) -> None:
    """A step of another one may take a hundred times as long."""
    again = watched(replace(PREPARE, settings=changed), TRAIN, LOADED, 1799.0, before=deadlines.restarted(training()))
    assert late(again, LIMITS, 0) is None


def test_measured_gaps_on_another_device_are_forgotten() -> None:
    """The graphics card is gone, say, and a step takes a hundred times as long."""
    before = deadlines.restarted(
        watched(PREPARE, TRAIN, replace(LOADED, environment={"device": "cuda"}), before=training())
    )
    known = watched(PREPARE, TRAIN, replace(LOADED, environment={"device": "cuda"}), 121.0, before=before)
    assert late(known, LIMITS, 0) is not None
    other = watched(PREPARE, TRAIN, replace(LOADED, environment={"device": "cpu"}), 1799.0, before=before)
    assert late(other, LIMITS, 0) is None


def test_as_much_is_kept_as_is_recent() -> None:
    """A model that became faster is soon known to be."""
    now = training(100.0)
    for number in range(GAPS_KEPT):
        now = watched(1.0, step(number), before=now)
    assert usual_s(now.gaps["step"]) == 1.0
    assert len(now.gaps["step"]) == GAPS_KEPT


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Late("step", 121.0, 120.0, 1.25), ["no progress in a step for 121 s", "was 120 s (usual is 1.2 s)"]),
        (Late("load", 1801.0, 1800.0, None), ["while it loaded the model for 1801 s", "is not known yet"]),
    ],
)
def test_what_is_said_of_it(found: Late, said: list[str]) -> None:
    """The phase, how long, and what is usual."""
    assert all(part in str(found) for part in said)


def test_failures_in_a_row_are_those_of_the_job_in_progress() -> None:
    """A job's, or a consolidation's."""
    assert deadlines.failures_in_a_row(State()) == 0
    world = World()
    world.start()
    world.add(2)
    world.run_until(kinds.JobPrepared)
    world.fails("hang")
    assert deadlines.failures_in_a_row(world.state) == 1
    world.run()
    assert deadlines.failures_in_a_row(world.state) == 0
    world.execute(commands.RequestConsolidation(description="", after_current=False))
    for count in range(2):
        world.run_until(kinds.ConsolidationBackedUp)
        assert deadlines.failures_in_a_row(world.state) == count
        world.fails("hang")
