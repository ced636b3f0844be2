"""Rounds of answers are spaced by their cost."""

from __future__ import annotations

import time

import pytest

from gpu.training.rounds.spacing import PROBE_STEPS, Spacing, TooExpensive


@pytest.mark.parametrize(("steps_total", "next_step"), [(1000, 200), (199, None), (200, 200)])
def test_the_next_round_follows_as_soon_as_it_costs_little_enough(steps_total: int, next_step: int | None) -> None:
    """If steps take as long as before: half a second each, so that a round of a second needs 200 of them."""
    spacing = Spacing(0.0, 1.0)
    for _ in range(8):
        spacing.add_training(0.5)
    assert spacing.affordable_step(8, 8, steps_total, 0.01) == next_step


def test_training_pays_for_rounds_and_for_those_that_were_put_off() -> None:
    """A round that stopped early cost something too."""
    spacing = Spacing(10.0, None)
    spacing.add_training(10.0)
    assert spacing.spare_s(0.1) == pytest.approx(2.0)
    spacing.stopped_early(TooExpensive(5.0), time.perf_counter() - 1.5, 2.0)
    assert spacing.spare_s(0.1) == pytest.approx(0.5, abs=0.05)
    assert spacing.round_s == 5.0
    spacing.end_round(3.0)
    assert (spacing.round_s, spacing.trained_s, spacing.wasted_s) == (3.0, 0.0, 0.0)


def test_an_unknown_cost_is_estimated_from_the_first_tokens() -> None:
    """Only at the probe; later the elapsed time counts, and a known cost needs no probe."""
    began = time.perf_counter() - 1.0
    with pytest.raises(TooExpensive) as found:
        Spacing(0.0, None).check(began, PROBE_STEPS, 10 * PROBE_STEPS, 5.0)
    assert found.value.round_s == pytest.approx(10.0, rel=0.1)
    Spacing(0.0, None).check(began, PROBE_STEPS + 1, 1000, 5.0)
    Spacing(0.0, 1.0).check(began, PROBE_STEPS, 1000, 5.0)
    with pytest.raises(TooExpensive):
        Spacing(0.0, 1.0).check(began, 20, 100, 0.5)


def test_a_put_off_is_news_once_for_each_cost() -> None:
    """Until the cost has changed by a factor of two, or the settings have changed."""
    spacing = Spacing(0.0, None)

    def is_reported(round_s: float) -> bool:
        spacing.round_s = round_s
        return spacing.put_off(8, 8, 100, 0.01) is not None

    assert [is_reported(cost) for cost in (1.0, 1.5, 3.5, 3.0)] == [True, False, True, False]
    spacing.forget_cost()
    assert is_reported(3.0)
