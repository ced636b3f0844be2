"""What weights mean, and what locks it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core import commands
from core.meaning import differences, locked_by, meaning_of, trains_weights
from events import kinds
from events.settings import DataSettings, FullSettings, LoraSettings, ModelSettings, TrainingSettings
from tests.core.world import World, settings

PLAIN = settings()
TRAINED = meaning_of(PLAIN)


@pytest.mark.parametrize(
    ("wanted", "locked", "behind_a_version"),
    [
        (PLAIN, [], []),
        (replace(PLAIN, training=TrainingSettings(learning_rate=1e-5, schedule="linear")), [], []),
        (replace(PLAIN, model=ModelSettings(path="tiny", trust_remote_code=True)), [], []),
        (replace(PLAIN, model=ModelSettings(path="other")), ["model.path"], ["model.path"]),
        (replace(PLAIN, model=ModelSettings(path="tiny", revision="1" * 40)), [], []),
        (replace(PLAIN, method=LoraSettings(r=4, alpha=8)), ["method.r", "method.alpha"], []),
        (replace(PLAIN, method=FullSettings()), ["method.kind"], ["method.kind"]),
        (replace(PLAIN, data=DataSettings(max_length=64)), ["data.max_length"], []),
    ],
)
def test_what_decides_the_meaning_is_locked(wanted: object, locked: list[str], behind_a_version: list[str]) -> None:
    """Harmless keys never; shape and length until a version holds what was learned."""
    assert [each.key for each in differences(TRAINED, wanted)] == locked
    found = differences(TRAINED, wanted, learning=False)
    assert [each.key for each in found] == behind_a_version
    assert differences(None, wanted) == []


def test_a_commit_is_locked_and_having_none_is_not() -> None:
    """A hub id can be pinned at any time: the worker compares the bytes."""
    pinned = replace(PLAIN, model=ModelSettings(path="tiny", revision="1" * 40))
    other = replace(PLAIN, model=ModelSettings(path="tiny", revision="2" * 40))
    for wanted in (other, PLAIN):
        for learning in (True, False):
            found = differences(meaning_of(pinned), wanted, learning=learning)
            assert [each.key for each in found] == ["model.revision"]


def test_it_is_locked_from_the_first_attempt_until_it_is_consolidated() -> None:
    """Also before the first commit: that will say the same."""
    world = World()
    world.start()
    assert locked_by(world.state) is None
    world.add(2)
    world.run_until(kinds.StepReached)
    assert world.state.meaning is None
    assert locked_by(world.state) == meaning_of(PLAIN)
    assert trains_weights(world.state)
    world.run()
    assert locked_by(world.state) == world.state.meaning
    assert trains_weights(world.state)
    world.execute(commands.RequestConsolidation(description=""))
    world.run()
    assert locked_by(world.state) is not None
    assert not trains_weights(world.state)
