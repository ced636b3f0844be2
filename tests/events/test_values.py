"""Ids and numbers: one spelling each."""

from __future__ import annotations

import msgspec
import pytest

from events.values import CheckpointId, checkpoint_id, is_checkpoint_id, number


@pytest.mark.parametrize(
    ("value", "journaled"),
    [(0.5, 0.5), (-0.0, -0.0), (float("nan"), "NaN"), (float("inf"), "Infinity"), (float("-inf"), "-Infinity")],
)
def test_numbers_that_json_lacks_are_written_as_words(value: float, journaled: object) -> None:
    """Finite ones stay as they are."""
    assert number(value) == journaled


@pytest.mark.parametrize(
    ("global_step", "attempt", "name"),
    [
        (1, 1, "step-00000001-attempt-0001"),
        (99_999_999, 9_999, "step-99999999-attempt-9999"),
        (100_000_000, 10_000, "step-100000000-attempt-10000"),
    ],
)
def test_checkpoint_ids_outgrow_their_padding(global_step: int, attempt: int, name: str) -> None:
    """Years of steps still give a legal name."""
    assert checkpoint_id(global_step, attempt) == name
    assert is_checkpoint_id(name)
    assert msgspec.convert(name, CheckpointId) == name


@pytest.mark.parametrize(
    "name",
    ["step-1-attempt-1", "step-00000001", "Step-00000001-attempt-0001", "step-00000001-attempt-0001.old", "best"],
)
def test_other_names_are_not_ours(name: str) -> None:
    """A directory that keepstep did not name is never swept."""
    assert not is_checkpoint_id(name)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(name, CheckpointId)
