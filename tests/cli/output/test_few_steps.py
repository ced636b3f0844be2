"""A job of few steps is warned about once, with what gives more steps."""

from __future__ import annotations

import msgspec
import pytest

from cli.output.few_steps import few_steps_warning
from core.job import Job
from events.settings import JobSettings, ModelSettings, Plan, TrainingSettings

PLAN = Plan(
    rows=40,
    tokens=400,
    trained_tokens=200,
    truncated_rows=0,
    epochs=1,
    steps_per_epoch=3,
    steps_total=3,
    tokenizer_sha256="",
    batches_sha256="",
)


def job(accumulation: int = 4, committed: int = 0) -> Job:
    training = TrainingSettings(gradient_accumulation=accumulation)
    settings = JobSettings(model=ModelSettings(path="model"), training=training)
    return Job(
        id="a" * 64, name="a.jsonl", size_bytes=1, priority="normal", settings=settings, committed_step=committed
    )


def test_warning_names_the_commands_that_give_more_steps() -> None:
    warning = few_steps_warning(PLAN, job())
    assert warning.startswith("\nonly 3 steps: fewer than about 20 steps hardly change a model\n→ ")
    assert "`keepstep config set training.epochs 7`" in warning
    assert "`keepstep config set training.gradient_accumulation 1`" in warning
    assert "files with more rows" in warning


@pytest.mark.parametrize(("plan", "accumulation"), [({"steps_per_epoch": 1, "steps_total": 1}, 1)])
def test_advice_that_would_not_help_is_left_out(plan: dict[str, int], accumulation: int) -> None:
    """Twenty passes over the same rows, or a step smaller than one micro-batch."""
    warning = few_steps_warning(msgspec.structs.replace(PLAN, **plan), job(accumulation))
    assert "only 1 step:" in warning
    assert "config set" not in warning


def test_nothing_is_said_of_enough_steps_or_of_a_job_that_continues() -> None:
    assert few_steps_warning(msgspec.structs.replace(PLAN, steps_total=20), job()) == ""
    assert few_steps_warning(PLAN, job(committed=1)) == ""
