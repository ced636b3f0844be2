"""The warning about a job of few steps."""

from __future__ import annotations

import math

from core.job import FEW_STEPS, Job
from events.settings import Plan

EPOCHS_MAX = 10
"""More passes over the same rows mostly teach the model to repeat them."""


def few_steps_warning(plan: Plan, job: Job | None) -> str:
    """The lines about a job with few steps, when it is prepared for the first time; "": there is nothing to say."""
    if plan.steps_total >= FEW_STEPS or (job is not None and job.begun):
        return ""
    wanted = math.ceil(FEW_STEPS / max(1, plan.steps_per_epoch))
    ways = [f"`keepstep config set training.epochs {wanted}`"] if wanted <= EPOCHS_MAX else []
    accumulated = job.settings.training.gradient_accumulation if job is not None and job.settings is not None else 1
    if accumulated > 1:
        ways.append("`keepstep config set training.gradient_accumulation 1` (smaller steps, and more of them)")
    ways.append("files with more rows")
    return (
        f"\nonly {steps_text(plan.steps_total)}: fewer than about {FEW_STEPS} steps hardly change a model"
        f"\n→ for more: {', or '.join(ways)}"
        "\n→ then train on this file again: `keepstep add --retrain FILE`"
    )


def steps_text(count: int) -> str:
    """The number of steps in words."""
    return "1 step" if count == 1 else f"{count} steps"
