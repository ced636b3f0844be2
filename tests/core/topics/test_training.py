"""A running job: prepared, started, and committed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core.topics.training import environment_changes
from events import kinds, messages
from tests.core.simulated_worker import plan
from tests.core.situations import at_work, tags
from tests.core.world import World, settings


def test_what_is_only_said_of_a_file_does_not_change_its_plan() -> None:
    """Whether rows were in an earlier file, nobody knows after the end of the reports; training is the same."""
    world = at_work()
    world.start()
    world.turn()
    job, attempt = world.state.training.current, world.state.attempts.current
    assert job is not None
    assert attempt is not None
    assert job.begun
    (prepared,) = world.execute(messages.Prepared(attempt=attempt, plan=replace(plan(6), warnings=("trained_before",))))
    assert isinstance(prepared, kinds.JobPrepared)
    assert prepared.plan == job.plan


def test_a_begun_job_with_another_plan_is_held() -> None:
    """Its batches would not be the ones that the committed steps came from."""
    world = at_work()
    world.start()
    world.turn()
    assert world.state.attempts.current is not None
    events = world.execute(messages.Prepared(attempt=world.state.attempts.current, plan=plan(6, seed=9)))
    assert tags(events) == ["AttemptFailed", "DaemonHeld"]
    assert "batches_sha256" in events[0].message


def test_a_begun_job_is_not_rejected() -> None:
    """Its file was readable, so the trouble is somewhere else."""
    world = at_work()
    world.start()
    world.turn()
    assert world.state.attempts.current is not None
    rejected = messages.Rejected(
        attempt=world.state.attempts.current, problem="empty", line=None, message="nothing in it"
    )
    assert tags(world.execute(rejected)) == ["AttemptFailed", "DaemonHeld"]


def test_a_commit_prunes_by_retention_in_the_same_transaction() -> None:
    """Journaled with the commit; the directories go after it."""
    world = World()
    world.config = settings(every_steps=1, keep=1)
    world.start()
    world.add(3)
    world.run_until(kinds.CheckpointCommitted, 2)
    assert tags(world.journal[-2:]) == ["CheckpointCommitted", "CheckpointPruned"]
    assert len(world.state.head.checkpoints) == 1


def test_what_changed_in_the_environment_is_said_when_training_starts() -> None:
    """Bits may differ from here on, and this says why."""
    world = at_work()
    world.start()
    world.run_until(kinds.JobPrepared)
    (event,) = world.execute(messages.Loaded(attempt=2, environment={"torch": "3"}))
    assert isinstance(event, kinds.TrainingStarted)
    assert event.changed == ("torch: 2 → 3",)


@pytest.mark.parametrize(
    ("before", "now", "changes"),
    [
        ({}, {"threads": "2"}, ()),
        ({"threads": "2"}, {"threads": "2"}, ()),
        ({"threads": "2"}, {"threads": "4"}, ("threads: 2 → 4",)),
        ({"b": "1", "a": "1"}, {"c": "1", "a": "1"}, ("b: 1 → none", "c: none → 1")),
    ],
)
def test_a_changed_environment_is_said_in_words(
    before: dict[str, str], now: dict[str, str], changes: tuple[str, ...]
) -> None:
    """In the order of the names; the first training of all has nothing to compare with."""
    assert environment_changes(before, now) == changes
