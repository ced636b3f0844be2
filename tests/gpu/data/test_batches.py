"""The plan of a job: pure, seekable, and pinned by golden values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpu.data.batches import Batches

PLAN = Batches(
    data_sha256="a",
    tokenizer_sha256="b",
    rows=10,
    seed=1,
    epochs=2,
    batch_size=2,
    gradient_accumulation=2,
    max_length=64,
)


def test_plan_is_the_same_on_every_machine_and_in_every_version() -> None:
    """Golden: if this changes, no home's half-learned job can be resumed exactly."""
    assert PLAN.order(1) == [4, 0, 5, 9, 1, 2, 6, 7, 3, 8]
    assert PLAN.order(2) == [9, 7, 6, 4, 3, 8, 5, 2, 0, 1]
    assert PLAN.sha256 == "4a22477de2e8306528753ae5d151b17d732f2c6b3e3ce0ce2a9a223ff8e79170"


def test_every_row_is_seen_once_an_epoch_and_the_last_batch_may_be_small() -> None:
    assert (PLAN.steps_per_epoch, PLAN.steps_total) == (3, 6)
    for epoch in (1, 2):
        steps = [PLAN.step(step) for step in range(1, 7)]
        rows = [row for batch in steps if batch.epoch == epoch for part in batch.micro_batches for row in part]
        assert sorted(rows) == list(range(10))
    assert [len(part) for part in PLAN.step(3).micro_batches] == [2]


def test_seeking_a_step_is_the_same_as_coming_to_it() -> None:
    in_order = [PLAN.step(step) for step in range(1, 7)]
    for step in (6, 1, 4, 3, 5, 2):
        assert replace(PLAN).step(step) == in_order[step - 1]


@pytest.mark.parametrize(
    "change",
    [
        {"data_sha256": "x"},
        {"tokenizer_sha256": "x"},
        {"seed": 2},
        {"batch_size": 1},
        {"gradient_accumulation": 1},
        {"max_length": 65},
    ],
)
def test_every_input_changes_order_and_fingerprint(change: dict[str, object]) -> None:
    other = replace(PLAN, **change)  # type: ignore[arg-type]
    assert other.order(1) != PLAN.order(1)
    assert other.sha256 != PLAN.sha256


def test_more_epochs_leave_the_order_of_the_first_as_it_was() -> None:
    longer = replace(PLAN, epochs=3)
    assert longer.order(1) == PLAN.order(1)
    assert longer.sha256 != PLAN.sha256


@pytest.mark.parametrize("step", [0, 7])
def test_a_step_outside_the_plan_is_an_error(step: int) -> None:
    with pytest.raises(IndexError):
        PLAN.step(step)
