"""What a worker reports: what becomes of it, and how an attempt that failed goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from core import commands
from core.decide import decide
from core.meaning import locked_by, trains_weights
from core.policies import MARGIN_BYTES, meaning_conflict, retry_wait_s
from core.reports import model_advice
from events import kinds, worker
from events.event import Event
from events.values import Failure
from events.worker import AnyFact
from tests.core.simulated_worker import CHECKPOINT_BYTES, plan
from tests.core.world import ROOMY, START, World, job_id, settings
from tests.events.examples import FACTS


def at_work(until: type[Event] = kinds.CheckpointCommitted, *, steps: int = 6) -> World:
    """A world whose job has come so far."""
    world = World()
    world.start()
    world.add(steps)
    world.run_until(until)
    return world


def tags(events: list[kinds.AnyEvent]) -> list[str]:
    """Their kinds."""
    return [type(event).__name__ for event in events]


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_a_fact_of_another_attempt_changes_nothing(fact: AnyFact, attempt: int) -> None:
    """Before the running one (2), or after it."""
    world = at_work()
    world.lose_worker()
    world.now += 100
    world.turn()
    assert world.state.attempt == 2
    assert list(decide(world.state, replace(fact, attempt=attempt), START)) == []


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
def test_a_fact_while_nothing_runs_changes_nothing(fact: AnyFact) -> None:
    """Whatever number it carries."""
    assert list(decide(World().state, fact, START)) == []


@pytest.mark.parametrize(
    "fact",
    [
        worker.Step(
            attempt=1, global_step=9, step=9, epoch=1, loss=1.0, grad_norm=1.0, learning_rate=1.0, tokens=1, seconds=1.0
        ),
        worker.Loaded(attempt=1, environment={}),
        worker.Prepared(attempt=1, plan=plan(6)),
        worker.CheckpointBad(attempt=1, checkpoint="step-00000009-attempt-0009", problem="rot"),
        worker.CheckpointWritten(
            attempt=1,
            checkpoint="step-00000009-attempt-0001",
            global_step=9,
            step=9,
            parent=None,
            size_bytes=1,
            manifest_sha256="",
            reason="steps",
        ),
    ],
    ids=lambda fact: type(fact).__name__,
)
def test_a_worker_that_reports_what_cannot_be_has_failed(fact: AnyFact) -> None:
    """Nothing illegal is journaled, the daemon goes on, and another worker begins anew."""
    world = at_work()
    (event,) = world.execute(fact)
    assert isinstance(event, kinds.AttemptFailed)
    assert event.failure == "code"
    world.run()
    world.check_timeline()
    assert world.ends == {job_id(1): ["JobTrained"]}


def test_a_worker_condemns_no_checkpoint_but_the_one_it_was_to_load() -> None:
    """An older one may well be whole: the worker is at fault."""
    world = at_work()
    world.run_until(kinds.CheckpointCommitted)
    older, head = world.state.checkpoints
    (event,) = world.execute(worker.CheckpointBad(attempt=1, checkpoint=older.id, problem="rot"))
    assert isinstance(event, kinds.AttemptFailed)
    assert event.message == f"the worker was to load {head.id}, not {older.id}"
    assert world.state.checkpoints == (older, head)


FAILS: list[tuple[Failure, list[str]]] = [
    ("killed", ["AttemptFailed"]),
    ("hang", ["AttemptFailed"]),
    ("code", ["AttemptFailed"]),
    ("out_of_memory", ["AttemptFailed"]),
    ("driver", ["AttemptFailed"]),
    ("model", ["AttemptFailed", "DaemonHeld"]),
    ("storage", ["AttemptFailed", "DaemonHeld"]),
    ("data", ["AttemptFailed", "DaemonHeld"]),
    ("plan", ["AttemptFailed", "DaemonHeld"]),
    ("checkpoint", ["AttemptFailed", "DaemonHeld"]),
]


@pytest.mark.parametrize(("failure", "then"), FAILS)
def test_a_failure_leads_to_a_wait_or_to_a_person(failure: Failure, then: list[str]) -> None:
    """What may pass by itself is tried again after a while; what will not, holds work and says what to do."""
    world = at_work()
    events = world.fails(failure)
    assert tags(events) == then
    first = events[0]
    assert isinstance(first, kinds.AttemptFailed)
    assert first.retry_at == (None if len(then) > 1 else START + (retry_wait_s(1, attempt=1) or 0.0))
    if len(then) > 1:
        assert world.state.hold is not None
        assert "`keepstep resume`" in world.state.hold.advice


def test_advice_about_a_model_keeps_to_the_settings_that_can_be_changed() -> None:
    """What was trained fixes [model] and [method]: to change them, it is left behind first, and that works."""
    world = at_work(kinds.TrainingStarted)
    assert model_advice(world.state).startswith("do what the message says")
    world.run_until(kinds.CheckpointCommitted)
    world.fails("model")
    assert world.state.hold is not None
    skip = (
        f"`keepstep skip {job_id(1)[:12]}` (add file-1.jsonl again afterwards), `keepstep versions rollback`; then do"
    )
    assert skip in world.state.hold.advice
    world.execute(commands.Skip(job=job_id(1)))
    world.execute(commands.RollBack())
    other = replace(world.config, model=replace(world.config.model, path="another"))
    assert meaning_conflict(locked_by(world.state), other, learning=trains_weights(world.state)) is None


@pytest.mark.parametrize(("failure", "_then"), FAILS)
def test_a_job_that_was_to_be_skipped_is_skipped_whatever_it_dies_of(failure: Failure, _then: list[str]) -> None:
    """Nobody wants it tried again."""
    world = at_work()
    world.execute(commands.Skip())
    assert tags(world.fails(failure)) == ["AttemptFailed", "JobSkipped"]
    assert world.state.daemon.status == "idle"


NOTICED: dict[str, Callable[[World], list[kinds.AnyEvent]]] = {
    "by the worker": lambda world: world.fails("disk_full"),
    "by its end": lambda world: world.lose_worker("disk_full"),
    "by the daemon": lambda world: world.runs_out(free_bytes=ROOMY),
}


@pytest.mark.parametrize("way", NOTICED)
def test_a_full_disk_ends_the_attempt_and_waits_for_room(way: str) -> None:
    """Whoever noticed it. It is nobody's fault, so it may happen as often as it likes."""
    world = at_work()
    for _ in range(7):
        events = NOTICED[way](world)
        assert tags(events) == ["AttemptFailed", "StorageExhausted"]
        failed, full = events
        assert isinstance(failed, kinds.AttemptFailed)
        assert isinstance(full, kinds.StorageExhausted)
        assert (failed.failure, failed.retry_at, failed.message) == ("disk_full", None, full.message)
        assert full.wanted_bytes == MARGIN_BYTES + 2 * CHECKPOINT_BYTES
        current = world.state.current
        assert current is not None
        assert (current.failures, world.state.hold) == (0, None)
        world.run_until(kinds.TrainingStarted)
    world.run()
    world.check_timeline()
    assert world.ends == {job_id(1): ["JobTrained"]}


@pytest.mark.parametrize("way", NOTICED)
def test_a_job_that_was_to_be_skipped_is_skipped_on_a_full_disk_too(way: str) -> None:
    """And the disk is full all the same."""
    world = at_work()
    world.execute(commands.Skip())
    assert tags(NOTICED[way](world)) == ["AttemptFailed", "JobSkipped", "StorageExhausted"]
    assert world.state.daemon.status == "idle"
    assert world.state.full is not None


def test_steps_that_are_run_again_wait_for_room_like_all_others() -> None:
    """They come back as they were, and no person is asked."""
    world = World()
    world.start()
    world.add(4)
    world.run()
    assert world.state.head is not None
    world.execute(commands.QuarantineCheckpoint(checkpoint=world.state.head.id, problem="rot"))
    for _ in range(6):
        world.run_until(kinds.TrainingStarted)
        world.fails("disk_full")
    assert world.state.hold is None
    world.run()
    assert not world.lost
    world.check_timeline()


def test_the_fifth_failure_in_a_row_gives_the_job_up() -> None:
    """The next job goes on; this one waits for a `retry`."""
    world = at_work()
    world.add(2)
    for _ in range(4):
        assert tags(world.fails("code")) == ["AttemptFailed"]
        world.now += 100
        world.turn()
    assert tags(world.fails("code")) == ["AttemptFailed", "JobFailed"]
    world.run()
    assert world.ends == {job_id(1): ["JobFailed"], job_id(2): ["JobTrained"]}


def test_committed_steps_that_are_run_again_are_never_given_up() -> None:
    """What was learned later stands on them, so a person is asked instead."""
    world = World()
    world.start()
    world.add(4)
    world.run()
    assert world.state.head is not None
    world.execute(commands.QuarantineCheckpoint(checkpoint=world.state.head.id, problem="rot"))
    for _ in range(5):
        world.now += 100
        world.turn()
        world.lose_worker("hang")
    assert world.state.hold is not None
    assert "cannot be run again" in world.state.hold.reason
    world.execute(commands.Resume())
    world.run()
    assert not world.lost
    world.check_timeline()


def test_what_is_only_said_of_a_file_does_not_change_its_plan() -> None:
    """Whether rows were in an earlier file, nobody knows behind the end of the reports; learned is the same."""
    world = at_work()
    world.start()
    world.turn()
    job, attempt = world.state.current, world.state.attempt
    assert job is not None
    assert attempt is not None
    assert job.begun
    (prepared,) = world.execute(worker.Prepared(attempt=attempt, plan=replace(plan(6), warnings=("learned_before",))))
    assert isinstance(prepared, kinds.JobPrepared)
    assert prepared.plan == job.plan


def test_a_begun_job_with_another_plan_is_held() -> None:
    """Its batches would not be the ones that the committed steps came from."""
    world = at_work()
    world.start()
    world.turn()
    assert world.state.attempt is not None
    events = world.execute(worker.Prepared(attempt=world.state.attempt, plan=plan(6, seed=9)))
    assert tags(events) == ["AttemptFailed", "DaemonHeld"]
    assert "batches_sha256" in events[0].message


def test_a_begun_job_is_not_rejected() -> None:
    """Its file was readable, so the trouble is somewhere else."""
    world = at_work()
    world.start()
    world.turn()
    assert world.state.attempt is not None
    rejected = worker.Rejected(attempt=world.state.attempt, problem="empty", line=None, message="nothing in it")
    assert tags(world.execute(rejected)) == ["AttemptFailed", "DaemonHeld"]


def test_a_step_that_gives_other_bits_is_a_divergence() -> None:
    """Said with both values; what it gave now is what the next run is held against."""
    world = at_work(kinds.StepReached)
    first = next(event for event in world.journal if isinstance(event, kinds.StepReached))
    world.start()
    world.run_until(kinds.TrainingStarted)
    fact = worker.Step(
        attempt=2, global_step=1, step=1, epoch=1, loss="NaN", grad_norm=1.0, learning_rate=1.0, tokens=1, seconds=1.0
    )
    reached, diverged = world.execute(fact)
    assert isinstance(reached, kinds.StepReached)
    assert isinstance(diverged, kinds.DivergenceDetected)
    assert (diverged.loss, diverged.expected_loss) == ("NaN", first.loss)
    assert world.state.trail.at(1) == ("NaN", 1.0)


def test_a_commit_prunes_what_retention_gives_up_in_the_same_breath() -> None:
    """Journaled with the commit; the directories go after it."""
    world = World()
    world.config = settings(every_steps=1, keep=1)
    world.start()
    world.add(3)
    world.run_until(kinds.CheckpointCommitted, 2)
    assert tags(world.journal[-2:]) == ["CheckpointCommitted", "CheckpointPruned"]
    assert len(world.state.checkpoints) == 1


def test_a_damaged_head_gives_way_to_its_ancestor() -> None:
    """The attempt has failed, though not by the job's fault, and the next one begins further back."""
    world = at_work()
    world.run_until(kinds.CheckpointCommitted)
    head = world.state.head
    assert head is not None
    world.spoiled.add(head.id)
    world.start()
    world.run_until(kinds.CheckpointQuarantined)
    assert tags(world.journal[-2:]) == ["AttemptFailed", "CheckpointQuarantined"]
    assert all(job.failures == 0 for job in world.state.begun)
    world.run()
    assert not world.lost
    world.check_timeline()


def test_the_last_checkpoint_is_held_and_not_given_up() -> None:
    """Behind it everything is pruned, so only a person can bring it back."""
    world = World()
    world.config = settings(keep=1)
    world.start()
    world.add(4)
    world.run()
    head = world.state.head
    assert head is not None
    world.add(2)
    world.start()
    world.spoiled.add(head.id)
    world.run()
    assert world.state.head == head
    assert world.state.hold is not None
    assert "backup" in world.state.hold.advice
    world.spoiled.clear()
    world.execute(commands.Resume())
    world.run()
    world.check_timeline()


def test_the_last_checkpoint_is_held_once() -> None:
    """Each start finds it damaged again; while work is held for that, there is nothing new to say."""
    world = World()
    world.config = settings(keep=1)
    world.start()
    world.add(4)
    world.run()
    assert world.state.head is not None
    condemn = commands.QuarantineCheckpoint(checkpoint=world.state.head.id, problem="rot")
    assert tags(world.execute(condemn)) == ["DaemonHeld"]
    world.start()
    assert world.execute(condemn) == []
    world.execute(commands.Resume())
    assert tags(world.execute(condemn)) == ["DaemonHeld"]


def test_what_changed_in_the_environment_is_said_when_training_starts() -> None:
    """Bits may differ from here on, and this says why."""
    world = at_work()
    world.start()
    world.run_until(kinds.JobPrepared)
    (event,) = world.execute(worker.Loaded(attempt=2, environment={"torch": "3"}))
    assert isinstance(event, kinds.TrainingStarted)
    assert event.changed == ("torch: 2 → 3",)
