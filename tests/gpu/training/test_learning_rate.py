"""The learning rate over a job."""

from __future__ import annotations

import pytest

from events.settings import TrainingSettings
from gpu.training.learning_rate import learning_rate, warmup_steps


def rates(total: int, **settings: object) -> list[float]:
    how = TrainingSettings(learning_rate=0.8, **settings)
    return [round(learning_rate(step, total, how), 6) for step in range(1, total + 1)]


def test_constant_stays() -> None:
    assert rates(3, schedule="constant") == [0.8, 0.8, 0.8]


def test_linear_falls_to_zero_one_step_after_the_last() -> None:
    assert rates(4, schedule="linear") == [0.8, 0.6, 0.4, 0.2]


def test_cosine_falls_slowly_at_both_ends() -> None:
    assert rates(4, schedule="cosine") == [0.8, 0.682843, 0.4, 0.117157]


def test_warmup_rises_to_the_rate_and_the_schedule_begins_there() -> None:
    assert rates(7, schedule="linear", warmup_steps=3) == [0.2, 0.4, 0.6, 0.8, 0.6, 0.4, 0.2]


def test_a_schedule_falls_to_a_share_of_the_rate() -> None:
    """And the warm-up still begins near 0."""
    assert rates(4, schedule="linear", min_learning_rate_ratio=0.5) == [0.8, 0.7, 0.6, 0.5]
    assert rates(4, schedule="cosine", min_learning_rate_ratio=0.5) == [0.8, 0.741421, 0.6, 0.458579]
    assert rates(3, schedule="linear", min_learning_rate_ratio=0.5, warmup_steps=1) == [0.4, 0.8, 0.6]


@pytest.mark.parametrize(("ratio", "total", "steps"), [(0.1, 30, 3), (0.1, 31, 4), (0.03, 100, 3), (0.5, 1, 1)])
def test_a_warmup_may_be_a_share_of_the_steps(ratio: float, total: int, steps: int) -> None:
    """Rounded up, but not for the error of a product of floats."""
    assert warmup_steps(total, TrainingSettings(warmup_ratio=ratio)) == steps
    assert rates(total, warmup_ratio=ratio) == rates(total, warmup_steps=steps)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_job_shorter_than_its_warmup_has_no_step_without_a_rate(schedule: str) -> None:
    assert rates(2, schedule=schedule, warmup_steps=7) == [0.1, 0.2]
