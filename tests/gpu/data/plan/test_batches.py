"""The batch plan is pure and seekable, and golden values pin it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from gpu.data.plan.batches import WINDOW_STEPS, Batches

PLAN = Batches(
    data_sha256="a",
    tokenizer_sha256="b",
    rows_sha256="c",
    lengths=np.array([3, 9, 4, 8, 5, 7, 6, 2, 1, 10], np.int32),
    seed=1,
    epochs=2,
    batch_size=2,
    gradient_accumulation=2,
    max_length=64,
    packing=False,
)

LONG = replace(
    PLAN,
    lengths=(np.arange(5000, dtype=np.int64) * 7919 % 97 + 4).astype(np.int32),
    batch_size=3,
    gradient_accumulation=5,
)
"""Five windows of steps and a part of one, and a smaller step at the end."""


GOLDEN_ORDERS = [[3, 7, 5, 9, 1, 0, 6, 8, 4, 2], [7, 9, 6, 8, 0, 1, 5, 4, 3, 2]]
GOLDEN_STEPS = [(((8,), (7,)), ((5,), (3,))), (((1,), (9,)), ((0,), (6,))), (((2,), (4,)),)]
GOLDEN_PACKED = [(((3, 4, 7, 8),),), (((9, 0),),)]
GOLDEN_SHA256 = "f2158aaaa2604ca94fbfdb2c60b8d2f2e1aba19ba9d217df095a091cc7413805"
GOLDEN_LONG = "dfe87d9a0c1baeef8892d0fe0e8d0358a7dff831d69738e9e5466679e4622350"


def rows_of(plan: Batches, epoch: int) -> list[list[int]]:
    """Return the rows of each step."""
    first = (epoch - 1) * plan.steps_per_epoch
    return [plan.step(first + step).rows for step in range(1, plan.steps_per_epoch + 1)]


def computed(plan: Batches) -> tuple[int, int]:
    """Return the positions and the tokens of the first epoch."""
    positions = tokens = 0
    for step in range(1, plan.steps_per_epoch + 1):
        for micro_batch in plan.step(step).micro_batches:
            widths = [sum(int(plan.lengths[row]) for row in sequence) for sequence in micro_batch]
            positions, tokens = positions + max(widths) * len(widths), tokens + sum(widths)
    return positions, tokens


def test_plan_is_the_same_on_every_machine_and_in_every_version() -> None:
    """Golden: if this changes, no partly trained job of any home can be resumed exactly."""
    assert PLAN.order(1).tolist() == GOLDEN_ORDERS[0]
    assert PLAN.order(2).tolist() == GOLDEN_ORDERS[1]
    assert [PLAN.step(step).micro_batches for step in (1, 2, 3)] == GOLDEN_STEPS
    assert [replace(PLAN, packing=True, max_length=16).step(step).micro_batches for step in (1, 3)] == GOLDEN_PACKED
    assert PLAN.sha256 == GOLDEN_SHA256
    everything = repr([LONG.step(step).micro_batches for step in range(1, LONG.steps_total + 1)])
    assert hashlib.sha256(everything.encode()).hexdigest() == GOLDEN_LONG


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize(("batch_size", "gradient_accumulation"), [(3, 5), (1, 1), (4, 1), (1, 7)])
def test_every_row_is_seen_once_an_epoch_and_the_last_step_may_be_small(
    packing: bool, batch_size: int, gradient_accumulation: int
) -> None:
    plan = replace(LONG, packing=packing, batch_size=batch_size, gradient_accumulation=gradient_accumulation)
    for epoch in (1, 2):
        steps = rows_of(plan, epoch)
        assert sorted(row for rows in steps for row in rows) == list(range(5000))
        assert {len(rows) for rows in steps[:-1]} == {plan.rows_per_step}
        assert 0 < len(steps[-1]) <= plan.rows_per_step
    for micro_batch in plan.step(1).micro_batches:
        assert len(micro_batch) <= batch_size
        assert all(len(sequence) == 1 or packing for sequence in micro_batch)


def test_a_file_smaller_than_a_step_is_one_step() -> None:
    plan = replace(PLAN, lengths=np.array([5], np.int32))
    assert (plan.steps_per_epoch, plan.steps_total) == (1, 2)
    assert plan.step(2).micro_batches == (((0,),),)
    assert plan.padding_share == 0.0


@pytest.mark.parametrize("packing", [False, True])
def test_seeking_a_step_is_the_same_as_coming_to_it(packing: bool) -> None:
    plan = replace(LONG, packing=packing)
    in_order = {step: plan.step(step) for step in range(1, plan.steps_total + 1)}
    for step in (plan.steps_total, 1, plan.steps_per_epoch, plan.steps_per_epoch + 1, WINDOW_STEPS, WINDOW_STEPS + 1):
        assert replace(plan).step(step) == in_order[step]


@pytest.mark.parametrize("packing", [False, True])
def test_a_row_is_found_at_the_step_that_trains_it(packing: bool) -> None:
    plan = replace(LONG, packing=packing)
    for epoch in (1, 2):
        for at, rows in enumerate(rows_of(plan, epoch)):
            assert plan.step_of(rows[-1], epoch) == (epoch - 1) * plan.steps_per_epoch + at + 1


@pytest.mark.parametrize(
    "change",
    [
        {"data_sha256": "x"},
        {"tokenizer_sha256": "x"},
        {"seed": 2},
        {"batch_size": 1},
        {"gradient_accumulation": 1},
        {"max_length": 65},
        {"packing": True},
    ],
)
def test_every_input_changes_order_and_fingerprint(change: dict[str, object]) -> None:
    other = replace(PLAN, **change)
    assert other.order(1).tolist() != PLAN.order(1).tolist()
    assert other.sha256 != PLAN.sha256


def test_what_is_in_the_rows_is_in_the_fingerprint() -> None:
    """Rows of the same number and the same lengths too: another mask would train other tokens."""
    assert replace(PLAN, rows_sha256="x").sha256 != PLAN.sha256


def test_more_epochs_leave_the_order_of_the_first_as_it_was() -> None:
    longer = replace(PLAN, epochs=3)
    assert longer.order(1).tolist() == PLAN.order(1).tolist()
    assert longer.sha256 != PLAN.sha256


@pytest.mark.parametrize("step", [0, 7])
def test_a_step_outside_the_plan_is_an_error(step: int) -> None:
    with pytest.raises(IndexError):
        PLAN.step(step)


@pytest.mark.parametrize("packing", [False, True])
def test_the_share_of_padding_is_what_the_steps_compute(packing: bool) -> None:
    plan = replace(LONG, packing=packing)
    positions, tokens = computed(plan)
    assert plan.padding_share == (positions - tokens) / positions


def test_rows_of_a_micro_batch_are_about_equally_long() -> None:
    """In random order alone, micro-batches of this size would waste a third."""
    plan = replace(LONG, batch_size=8)
    by_chance = plan.lengths[plan.order(1)].reshape(-1, 8)
    assert 1 - by_chance.sum() / (by_chance.max(axis=1).sum() * 8) > 0.4
    assert plan.padding_share < 0.02


def test_the_lengths_within_a_window_do_not_come_in_order() -> None:
    """Each step has long rows and short ones, as far as its micro-batches allow."""
    meaning = [np.mean(LONG.lengths[LONG.step(step).rows]) for step in range(1, WINDOW_STEPS + 1)]
    assert sorted(meaning) != meaning
    assert np.std(meaning) < 20
