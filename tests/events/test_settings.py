"""The bounds on settings stand on the types."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from events.settings import JobSettings

MODEL = {"model": {"path": "tiny"}}


def test_a_model_is_all_that_is_needed() -> None:
    """Everything else has a default."""
    assert msgspec.convert(MODEL, JobSettings).checkpoints.keep == 3


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ("model", {"path": ""}),
        ("model", {"path": "tiny", "dtype": "float16"}),
        ("model", {"path": "tiny", "colour": "red"}),
        ("method", {"kind": "lora", "r": 0}),
        ("method", {"kind": "lora", "dropout": 1.0}),
        ("method", {"kind": "magic"}),
        ("data", {"max_length": 7}),
        ("training", {"batch_size": 0}),
        ("training", {"learning_rate": 0.0}),
        ("training", {"seed": 2**62}),
        ("training", {"precision": "fp16"}),
        ("checkpoints", {"keep": 0}),
        ("checkpoints", {"every_seconds": -1.0}),
    ],
)
def test_impossible_values_and_unknown_keys_are_refused(section: str, fields: dict[str, Any]) -> None:
    """Nothing is silently ignored or corrected."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**MODEL, section: fields}, JobSettings)
