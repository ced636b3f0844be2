"""Where the steps of a job part from its plan: the rule that the bits depend on."""

from __future__ import annotations

import msgspec
import pytest

from events.course import Course, Split

HEAVY = Split(step=5, parts=4, steps=10)


@pytest.mark.parametrize(
    ("step", "parts"),
    [(1, 1), (4, 1), (5, 4), (14, 4), (15, 2), (24, 2), (25, 1), (35, 1), (10**9, 1)],
)
def test_parts_grow_back_as_the_split_says(step: int, parts: int) -> None:
    """From its step on; after each so many steps half as many."""
    assert Course(splits=(HEAVY,)).parts_at(step) == parts


def test_the_newest_split_alone_counts_from_its_step_on() -> None:
    """What an earlier one would have said of later steps is over; of earlier steps it still holds."""
    course = Course(splits=(HEAVY,)).with_split(Split(step=8, parts=8, steps=100))
    assert [course.parts_at(step) for step in (4, 5, 7, 8, 15, 107, 108)] == [1, 4, 4, 8, 8, 8, 4]


def test_a_split_at_an_earlier_step_takes_the_place_of_later_ones() -> None:
    """Steps that are run again and no longer fit: what follows them is decided again."""
    course = Course(splits=(HEAVY,)).with_split(Split(step=3, parts=2, steps=1))
    assert course.splits == (Split(step=3, parts=2, steps=1),)


def test_steps_that_are_passed_over_are_kept_once_and_in_order() -> None:
    """So that equal courses are equal."""
    assert Course().skipping(9).skipping(2).skipping(9) == Course(skipped=(2, 9))


def test_the_plain_course_is_nothing_on_disk_and_on_the_wire() -> None:
    """An order for a job without troubles says nothing of them."""
    assert msgspec.json.encode(Course()) == b"{}"
    assert msgspec.json.decode(msgspec.json.encode(Course(splits=(HEAVY,))), type=Course).splits == (HEAVY,)
