"""The learning rate of each step: linear warm-up, then a constant, linear or cosine schedule."""

from __future__ import annotations

import math

from events.settings import TrainingSettings


def learning_rate(step: int, steps_total: int, settings: TrainingSettings) -> float:
    """Return the learning rate of step `step` (from 1) of a job of `steps_total` steps.

    No step has a rate of 0: warm-up begins at rate / (warm-up steps + 1), and the linear and cosine schedules would
    reach their end, `min_learning_rate_ratio` of the rate, one step after the last.
    """
    warmup = warmup_steps(steps_total, settings)
    if step <= warmup:
        return settings.learning_rate * step / (warmup + 1)
    progress = (step - 1 - warmup) / (steps_total - warmup)
    if settings.schedule == "linear":
        rate = settings.learning_rate * (1.0 - progress)
    elif settings.schedule == "cosine":
        rate = settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        return settings.learning_rate
    least = settings.min_learning_rate_ratio
    return least * settings.learning_rate + (1.0 - least) * rate if least else rate


def warmup_steps(steps_total: int, settings: TrainingSettings) -> int:
    """Return the number of steps in which the learning rate rises."""
    if settings.warmup_ratio:
        return math.ceil(round(settings.warmup_ratio * steps_total, 6))  # 0.1 of 30 steps is 3, not 3.0000000000000004
    return settings.warmup_steps
