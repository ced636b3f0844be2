"""The topic of the running attempt decides who answers for it."""

from __future__ import annotations

from core import commands
from core.topics import attempts, consolidation
from core.topics.evaluation import versions
from core.topics.running import running_topic
from events import kinds
from tests.core.world import World


def test_each_attempt_has_its_topic() -> None:
    world = World()
    world.gate = "hold"
    assert running_topic(world.state) is attempts
    world.start()
    world.add(2)
    world.run_until(kinds.AttemptStarted)
    assert running_topic(world.state) is attempts
    world.execute(commands.RequestConsolidation(description=""))
    world.run_until(kinds.ConsolidationStarted)
    assert running_topic(world.state) is consolidation
    world.run_until(kinds.VersionEvaluationStarted)
    assert running_topic(world.state) is versions
    world.run()
    assert running_topic(world.state) is attempts
