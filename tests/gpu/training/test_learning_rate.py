"""The learning rate over a job."""

from __future__ import annotations

import pytest

from events.settings import TrainingSettings
from gpu.training.learning_rate import learning_rate


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


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_job_shorter_than_its_warmup_has_no_step_without_a_rate(schedule: str) -> None:
    assert rates(2, schedule=schedule, warmup_steps=7) == [0.1, 0.2]
