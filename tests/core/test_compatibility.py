"""What weights mean, and what locks it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core import commands
from core.compatibility import (
    differences,
    fixed_settings,
    has_unpublished_training,
    settings_conflict,
    weight_settings,
    with_base_of,
)
from core.values import WeightSettings
from events import kinds
from events.settings import (
    DataSettings,
    FullSettings,
    JobSettings,
    LoraSettings,
    ModelSettings,
    QloraSettings,
    TrainingSettings,
)
from tests.core.world import World, settings

TINY = JobSettings(model=ModelSettings(path="tiny"), method=LoraSettings(r=8))


PLAIN = settings()
TRAINED = weight_settings(PLAIN)


@pytest.mark.parametrize(
    ("wanted", "locked", "after_a_version"),
    [
        (PLAIN, [], []),
        (replace(PLAIN, training=TrainingSettings(learning_rate=1e-5, schedule="linear")), [], []),
        (replace(PLAIN, model=ModelSettings(path="tiny", trust_remote_code=True)), [], []),
        (replace(PLAIN, model=ModelSettings(path="other")), [], []),
        (replace(PLAIN, model=ModelSettings(path="tiny", dtype="bfloat16")), ["model.dtype"], []),
        (replace(PLAIN, method=QloraSettings()), ["method.kind"], []),
        (replace(PLAIN, model=ModelSettings(path="tiny", revision="1" * 40)), [], []),
        (replace(PLAIN, method=LoraSettings(r=4, alpha=8)), ["method.r", "method.alpha"], []),
        (replace(PLAIN, method=FullSettings()), ["method.kind"], ["method.kind"]),
        (replace(PLAIN, data=DataSettings(max_length=64)), ["data.max_length"], []),
    ],
)
def test_what_decides_the_meaning_is_locked(wanted: object, locked: list[str], after_a_version: list[str]) -> None:
    """Harmless keys never; shape and length until a version holds what was trained."""
    assert [each.key for each in differences(TRAINED, wanted)] == locked
    found = differences(TRAINED, wanted, unpublished=False)
    assert [each.key for each in found] == after_a_version
    assert differences(None, wanted) == []


def test_full_training_and_adapters_do_not_mix() -> None:
    """A version is a sum of adapters, or the weights of full training."""
    full = weight_settings(replace(PLAIN, method=FullSettings()))
    assert [each.key for each in differences(full, PLAIN, unpublished=False)] == ["method.kind"]


def test_the_base_of_an_earlier_job_is_where_it_is_now() -> None:
    """Nothing else of its settings changes."""
    now = ModelSettings(path="moved", revision="1" * 40, dtype="bfloat16")
    moved = with_base_of(PLAIN, now)
    assert moved == replace(PLAIN, model=ModelSettings(path="moved", revision="1" * 40))


def test_it_is_locked_from_the_first_attempt_until_it_is_consolidated() -> None:
    """Also before the first commit: that will say the same."""
    world = World()
    world.start()
    assert fixed_settings(world.state) is None
    world.add(2)
    world.run_until(kinds.StepReached)
    assert world.state.head.weight_settings is None
    assert fixed_settings(world.state) == weight_settings(PLAIN)
    assert has_unpublished_training(world.state)
    world.run()
    assert fixed_settings(world.state) == world.state.head.weight_settings
    assert has_unpublished_training(world.state)
    world.execute(commands.RequestConsolidation(description=""))
    world.run()
    assert fixed_settings(world.state) is not None
    assert not has_unpublished_training(world.state)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (TINY, None),
        (replace(TINY, model=ModelSettings(path="tiny", trust_remote_code=True)), None),
        (
            replace(TINY, model=ModelSettings(path="tiny", dtype="bfloat16")),
            "model.dtype is bfloat16, and the weights were trained with float32",
        ),
        (replace(TINY, method=LoraSettings(r=16)), "method.r is 16, and the weights were trained with 8"),
        (replace(TINY, method=FullSettings()), "method.kind is full, and the weights were trained with lora"),
        (
            replace(TINY, method=LoraSettings(r=8, target_modules=("q", "v"))),
            "method.target_modules is q, v, and the weights were trained with all-linear",
        ),
    ],
)
def test_training_continues_only_under_its_own_model_and_method(wanted: JobSettings, says: str | None) -> None:
    """Weights mean nothing under another base; code that comes with a model does not change what they mean."""
    assert settings_conflict(WeightSettings(TINY.model, TINY.method), wanted) == says


def test_two_differences_are_both_named() -> None:
    """A person fixes all of it in one go."""
    wanted = replace(TINY, model=ModelSettings(path="tiny", dtype="bfloat16"), method=FullSettings())
    assert str(settings_conflict(WeightSettings(TINY.model, TINY.method), wanted)).count(";") == 1


def test_before_anything_is_trained_nothing_conflicts() -> None:
    """A new home takes any settings."""
    assert settings_conflict(None, TINY) is None
