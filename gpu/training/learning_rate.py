"""The learning rate: a pure function of the step. Warm-up rises to it, the schedule falls from it."""

from __future__ import annotations

import math

from events.settings import TrainingSettings


def learning_rate(step: int, steps_total: int, settings: TrainingSettings) -> float:
    """The learning rate of step `step` (from 1) of a job of `steps_total` steps.

    Both ends are chosen so that no step is wasted on a rate of 0: warm-up begins at rate / (warmup_steps + 1), and
    the falling schedules would reach 0 one step after the last.
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
