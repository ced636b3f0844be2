"""Keys that depend on each other: what is wrong with them together is named, all of it at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli.config.schema import read_document

MODEL: dict[str, Any] = {"model": {"path": "m"}}


@pytest.mark.parametrize(
    ("document", "reason", "advice"),
    [
        ({"data": {"completion": "c"}}, "belong together", "keepstep config set data.prompt=question data.completion="),
        ({"memory": {"hold_above": 0.1}}, "is not below hold_above", "memory.hold_above=0.1 memory.resume_below=0.05"),
        ({"consolidation": {"timezone": "Berlin"}}, "is not a time zone", 'did you mean "Europe/Berlin"?'),
        ({"training": {"warmup_steps": 3, "warmup_ratio": 0.1}}, "both set", "training.warmup_steps=0"),
        ({"training": {"schedule": "constant", "min_learning_rate_ratio": 0.1}}, "has no effect", "cosine"),
        ({"method": {"target_modules": []}}, "target_modules is empty", "all-linear"),
        ({"method": {"target_modules": "q_proj)"}}, "is not a regular expression", "all-linear"),
        ({"hooks": {"notify_template": "{{ message"}}, "is not a Jinja2 template", "double braces"),
    ],
)
def test_what_does_not_fit_together_is_named(document: dict[str, Any], reason: str, advice: str) -> None:
    """With a command that sets both, where two keys have to change at once."""
    config, (error,) = read_document({**MODEL, **document}, Path("keepstep.toml"))
    assert config is None
    assert reason in error.reason
    assert advice in error.advice


def test_every_problem_is_named() -> None:
    """Those of the values first; those of values together once each of them is allowed."""
    wrong = {**MODEL, "training": {"epochs": 0, "lr": 1}, "data": {"holdout": 2}}
    _, errors = read_document(wrong, Path("keepstep.toml"))
    assert len(errors) == 3
    wrong = {**MODEL, "data": {"prompt": "p"}, "checkpoints": {"every_steps": 0, "every_seconds": 0}}
    _, errors = read_document(wrong, Path("keepstep.toml"))
    assert len(errors) == 2
