"""keepstep.toml as it changes: which keys, from what to what, and what is said of an edit that cannot be used."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core import commands
from core.errors import IllegalEvent
from core.topics.config import changed_keys, sections_of
from events import kinds
from events.codec import kind_of
from events.kinds import Change, ConfigChanged, ConfigFixed
from events.settings import DataSettings, FullSettings, Sources, TrainingSettings
from tests.core.world import World, settings

PLAIN = settings()


def test_keys_are_named_with_what_they_were_and_are() -> None:
    """As the file writes them; what is found out when a job is begun is no key."""
    now = replace(
        PLAIN,
        training=TrainingSettings(seed=1, learning_rate=1e-4),
        data=DataSettings(prompt="q", completion="a"),
        sources=Sources(replay=("x",)),
    )
    assert changed_keys(sections_of(PLAIN), sections_of(now)) == (
        Change("data.prompt", "", '"q"'),
        Change("data.completion", "", '"a"'),
        Change("training.learning_rate", "0.0002", "0.0001"),
    )
    assert changed_keys(sections_of(PLAIN), sections_of(PLAIN)) == ()


def test_another_method_takes_its_keys_along() -> None:
    """What it does not have is gone."""
    found = {
        each.key: each.now
        for each in changed_keys(sections_of(PLAIN), sections_of(replace(PLAIN, method=FullSettings())))
    }
    assert found["method.kind"] == '"full"'
    assert found["method.r"] == ""


def test_the_first_job_under_other_settings_is_journaled_with_them() -> None:
    """Whether a daemon ran when the file was edited, or none: told by the job before it."""
    world = World()
    world.start()
    world.add(1)
    world.run()
    world.config = settings(seed=2)
    world.start()
    job = world.add(1)
    world.add(1)
    world.run()
    changed = [event for event in world.journal if isinstance(event, ConfigChanged)]
    assert changed == [ConfigChanged(job=job, changes=(Change("training.seed", "1", "2"),))]
    at = world.journal.index(changed[0])
    assert isinstance(world.journal[at + 1], kinds.AttemptStarted)


def test_a_begun_job_continues_as_it_was_and_nothing_is_reported() -> None:
    """The change is said with the file that it is for."""
    world = World()
    world.start()
    world.add(4)
    world.run_until(kinds.CheckpointCommitted)
    world.config = settings(seed=2)
    world.start()
    world.run()
    assert not [event for event in world.journal if isinstance(event, ConfigChanged)]


def note(world: World, problem: str | None = None, changes: tuple[Change, ...] = ()) -> list[str]:
    """The kinds of what follows."""
    return [
        kind_of(event) for event in world.execute(commands.RecordConfig(problem=problem, advice="a", changes=changes))
    ]


def test_a_problem_is_said_once_and_its_end_too() -> None:
    """Another one is another word; what runs is not touched by any."""
    world = World()
    assert note(world, "p") == ["config_refused"]
    assert note(world, "p") == []
    assert note(world, "q") == ["config_refused"]
    assert world.state.config.error is not None
    assert (world.state.config.error.reason, world.state.config.error.advice) == ("q", "a")
    assert note(world, None, (Change("disk.soft_gb", "0.0", "1.0"),)) == ["config_fixed", "config_changed"]
    assert world.state.config.error is None
    assert note(world) == []


def test_a_config_that_was_not_wrong_is_not_fixed() -> None:
    """And the state stays as it was."""
    world = World()
    before = world.state
    with pytest.raises(IllegalEvent):
        world.happens(ConfigFixed())
    assert world.state is before
