"""The learning rate of each step: linear warm-up, then a constant, linear or cosine schedule."""

from __future__ import annotations

import math

from events.settings import TrainingSettings


def learning_rate(step: int, steps_total: int, settings: TrainingSettings) -> float:
    """Return the learning rate of step `step` (from 1) of a job of `steps_total` steps.

    No step has a rate of 0: warm-up begins at rate / (warmup_steps + 1), and the linear and cosine schedules would
    reach 0 one step after the last.
    """
    warmup = settings.warmup_steps
    if step <= warmup:
        return settings.learning_rate * step / (warmup + 1)
    progress = (step - 1 - warmup) / (steps_total - warmup)
    if settings.schedule == "linear":
        return settings.learning_rate * (1.0 - progress)
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
    return settings.learning_rate
