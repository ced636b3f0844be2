"""When checkpoints are due, and what becomes of one that cannot be written."""

from __future__ import annotations

import pytest

from events.messages import CheckpointWritten, Heartbeat, Step
from events.settings import CheckpointSettings
from gpu.errors import StorageFailed
from gpu.ipc.worker_channel import Heartbeats
from gpu.training.saver import Saver
from tests.gpu.helpers import LORA, FakeChannel, Home, settings
from tests.harness.tiny_model import make_rows


def saver(home: Home, **cadence: float) -> Saver:
    channel = FakeChannel()
    return Saver(home.path, CheckpointSettings(**cadence), channel, Heartbeats(channel, 1), None)


def test_a_checkpoint_is_due_after_so_many_steps(home: Home) -> None:
    by_steps = saver(home, every_steps=3, every_seconds=0)
    assert [by_steps.due(steps) for steps in (1, 2, 3, 4)] == [None, None, "steps", "steps"]


def test_a_checkpoint_is_due_after_so_long(home: Home) -> None:
    assert saver(home, every_steps=0, every_seconds=1e-9).due(1) == "time"
    assert saver(home, every_steps=0, every_seconds=1e9).due(1) is None


def test_nothing_is_due_where_the_cadence_is_off(home: Home) -> None:
    assert saver(home, every_steps=0, every_seconds=0).due(10**9) is None


def test_each_checkpoint_says_that_it_begins(home: Home) -> None:
    """From then on its own deadline counts: also for one that hangs before its first byte.

    On a busy machine steps finish while a checkpoint is in flight, so only the first and the last one are certain.
    """
    home.train_job(home.new_session(), home.add(make_rows(10)), settings(LORA, every_steps=1))
    facts = [fact for fact in home.channel.facts if isinstance(fact, CheckpointWritten | Heartbeat)]
    facts = [fact for fact in facts if not isinstance(fact, Heartbeat) or (fact.phase, fact.done) == ("checkpoint", 0)]
    assert len(home.channel.of(CheckpointWritten)) >= 2
    assert [type(fact) for fact in facts] == [Heartbeat, CheckpointWritten] * (len(facts) // 2)


def test_a_checkpoint_that_cannot_be_written_ends_the_attempt(home: Home) -> None:
    """At the next step boundary, not at the end of the job."""
    (home.path / "checkpoints").write_bytes(b"a file where the directory should be")
    with pytest.raises(StorageFailed):
        home.train_job(home.new_session(), home.add(make_rows(10)), settings(LORA, every_steps=1, epochs=100))
    assert len(home.channel.of(Step)) < 20
    assert not home.channel.of(CheckpointWritten)
