"""Reports of a worker, their results, and the retry of a failed attempt."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from core import commands
from core.compatibility import fixed_settings, has_unpublished_training, settings_conflict
from core.decide import decide
from core.topics.attempts import JITTER, LONGEST_WAIT_S, is_due, model_advice, retry_wait_s
from core.topics.disk import MARGIN_BYTES
from events import kinds, messages
from events.messages import AnyFact
from events.values import Failure
from tests.core.simulated_worker import CHECKPOINT_BYTES, plan
from tests.core.situations import at_work, tags
from tests.core.world import ROOMY, START, World, job_id
from tests.events.examples import FACTS


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_a_fact_of_another_attempt_changes_nothing(fact: AnyFact, attempt: int) -> None:
    """Before the running one (2), or after it."""
    world = at_work()
    world.lose_worker()
    world.now += 100
    world.turn()
    assert world.state.attempts.current == 2
    assert list(decide(world.state, replace(fact, attempt=attempt), START)) == []


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
def test_a_fact_while_nothing_runs_changes_nothing(fact: AnyFact) -> None:
    """Whatever number it carries."""
    assert list(decide(World().state, fact, START)) == []


@pytest.mark.parametrize(
    "fact",
    [
        messages.Step(
            attempt=1, global_step=9, step=9, epoch=1, loss=1.0, grad_norm=1.0, learning_rate=1.0, tokens=1, seconds=1.0
        ),
        messages.Loaded(attempt=1, environment={}),
        messages.Prepared(attempt=1, plan=plan(6)),
        messages.CheckpointBad(attempt=1, checkpoint="step-00000009-attempt-0009", problem="rot"),
        messages.CheckpointWritten(
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
    """Nothing illegal is journaled, the daemon continues, and another worker starts again."""
    world = at_work()
    (event,) = world.execute(fact)
    assert isinstance(event, kinds.AttemptFailed)
    assert event.failure == "code"
    world.run()
    world.check_timeline()
    assert world.ends == {job_id(1): ["JobTrained"]}


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
        assert world.state.daemon.hold is not None
        assert "`keepstep resume`" in world.state.daemon.hold.advice


def test_advice_about_a_model_keeps_to_the_settings_that_can_be_changed() -> None:
    """What was trained fixes [model] and [method]: to change them, the head is moved away first, and that works."""
    world = at_work(kinds.TrainingStarted)
    assert model_advice(world.state).startswith("do what the message says")
    world.run_until(kinds.CheckpointCommitted)
    world.fails("model")
    assert world.state.daemon.hold is not None
    skip = (
        f"`keepstep skip {job_id(1)[:12]}` (add file-1.jsonl again afterwards), `keepstep versions rollback`; then do"
    )
    assert skip in world.state.daemon.hold.advice
    world.execute(commands.Skip(job=job_id(1)))
    world.execute(commands.RollBack())
    other = replace(world.config, model=replace(world.config.model, path="another"))
    assert (
        settings_conflict(fixed_settings(world.state), other, unpublished=has_unpublished_training(world.state)) is None
    )


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
    """No matter which process noticed it. It is nobody's fault, so it may happen as often as it likes."""
    world = at_work()
    for _ in range(7):
        events = NOTICED[way](world)
        assert tags(events) == ["AttemptFailed", "StorageExhausted"]
        failed, full = events
        assert isinstance(failed, kinds.AttemptFailed)
        assert isinstance(full, kinds.StorageExhausted)
        assert (failed.failure, failed.retry_at, failed.message) == ("disk_full", None, full.message)
        assert full.wanted_bytes == MARGIN_BYTES + 2 * CHECKPOINT_BYTES
        current = world.state.training.current
        assert current is not None
        assert (current.failures, world.state.daemon.hold) == (0, None)
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
    assert world.state.disk.full is not None


def test_steps_that_are_run_again_wait_for_room_like_all_others() -> None:
    """They come back as they were, and no person is asked."""
    world = World()
    world.start()
    world.add(4)
    world.run()
    assert world.state.head.checkpoint is not None
    world.execute(commands.QuarantineCheckpoint(checkpoint=world.state.head.checkpoint.id, problem="rot"))
    for _ in range(6):
        world.run_until(kinds.TrainingStarted)
        world.fails("disk_full")
    assert world.state.daemon.hold is None
    world.run()
    assert not world.lost
    world.check_timeline()


def test_the_fifth_failure_in_a_row_gives_the_job_up() -> None:
    """The next job continues; this one waits for a `retry`."""
    world = at_work()
    world.add(2)
    for _ in range(4):
        assert tags(world.fails("code")) == ["AttemptFailed"]
        world.now += 100
        world.turn()
    assert tags(world.fails("code")) == ["AttemptFailed", "JobFailed"]
    world.run()
    assert world.ends == {job_id(1): ["JobFailed"], job_id(2): ["JobTrained"]}


def test_committed_steps_that_run_again_never_fail_permanently() -> None:
    """What was trained later stands on them, so a person is asked instead."""
    world = World()
    world.start()
    world.add(4)
    world.run()
    assert world.state.head.checkpoint is not None
    world.execute(commands.QuarantineCheckpoint(checkpoint=world.state.head.checkpoint.id, problem="rot"))
    for _ in range(5):
        world.now += 100
        world.turn()
        world.lose_worker("hang")
    assert world.state.daemon.hold is not None
    assert "cannot be run again" in world.state.daemon.hold.reason
    world.execute(commands.Resume())
    world.run()
    assert not world.lost
    world.check_timeline()


@pytest.mark.parametrize(("failures", "wait_s"), [(1, 2.0), (2, 4.0), (3, 8.0), (4, 16.0), (5, None), (99, None)])
def test_waits_double_and_then_end(failures: int, wait_s: float | None) -> None:
    """The n-th failure in a row waits about that long; the fifth is the last."""
    waits = [retry_wait_s(failures, attempt) for attempt in range(1, 500)]
    if wait_s is None:
        assert set(waits) == {None}
        return
    known = [wait for wait in waits if wait is not None]
    assert len(known) == len(waits)
    assert (1 - JITTER) * wait_s <= min(known) < 0.8 * wait_s
    assert 1.2 * wait_s < max(known) <= (1 + JITTER) * wait_s
    assert max(known) <= LONGEST_WAIT_S


def test_a_wait_follows_from_the_attempt() -> None:
    """The same history gives the same waits; another attempt, another one."""
    assert retry_wait_s(2, 7) == retry_wait_s(2, 7)
    assert len({retry_wait_s(2, attempt) for attempt in range(100)}) > 90


@pytest.mark.parametrize(
    ("retry_at", "due"),
    [
        (None, True),
        (99.0, True),
        (100.0, True),
        (100.5, False),
        (100.0 + LONGEST_WAIT_S, False),
        (100.1 + LONGEST_WAIT_S, True),
    ],
)
def test_a_wait_ends_even_if_the_clock_was_set_back(retry_at: float | None, due: bool) -> None:
    """At 100 s: nothing that keepstep asked for lies further ahead than its longest wait."""
    assert is_due(retry_at, 100.0) is due
