"""How a step that does not fit is made smaller: the table of cases."""

from __future__ import annotations

import pytest

from core.splits import FIRST_STEPS, LONGEST_STEPS, halved
from events.course import Course, Split

N = FIRST_STEPS
ONCE = Course(splits=(Split(step=10, parts=2, steps=N),))
TWICE = Course(splits=(*ONCE.splits, Split(step=20, parts=4, steps=2 * N)))


@pytest.mark.parametrize(
    ("course", "step", "sequences", "expected"),
    [
        (Course(), 10, 4, Split(step=10, parts=2, steps=N)),
        (Course(), 10, 2, Split(step=10, parts=2, steps=N)),
        (Course(), 10, 1, None),
        (ONCE, 10, 2, Split(step=10, parts=4, steps=N)),
        (ONCE, 10, 1, None),
        (ONCE, 30, 2, Split(step=30, parts=4, steps=2 * N)),
        (ONCE, 10 + N, 4, Split(step=10 + N, parts=2, steps=2 * N)),
        (TWICE, 20 + 2 * N, 4, Split(step=20 + 2 * N, parts=4, steps=4 * N)),
        (TWICE, 5, 4, Split(step=5, parts=2, steps=N)),
    ],
    ids=[
        "whole → halves",
        "a pair → one each",
        "one alone: nothing to cut",
        "the same step again: smaller, as long",
        "the same step again, one alone",
        "a heavier batch while it is split",
        "tried whole again in vain: twice as long",
        "tried larger again in vain",
        "an earlier step, run again",
    ],
)
def test_a_step_is_run_again_in_half(course: Course, step: int, sequences: int, expected: Split | None) -> None:
    """And each further time it takes twice as long before larger parts are tried."""
    assert halved(course, step, sequences) == expected


def test_a_job_that_never_fits_whole_tries_it_a_few_times_only() -> None:
    """In a million steps: less than twenty in vain, and a table that stays as short."""
    course, step, tries = Course(), 1, 0
    while step < 1_000_000:
        if course.parts_at(step) == 1:
            split = halved(course, step, 2)
            assert split is not None
            course, tries = course.with_split(split), tries + 1
            step += split.steps
    assert tries == len(course.splits) < 20


def test_it_never_takes_longer_than_the_longest() -> None:
    """A number that stays one, however many splits there were."""
    many = Course(splits=tuple(Split(step=step, parts=2, steps=1) for step in range(1, 100)))
    split = halved(many, 200, 2)
    assert split is not None
    assert split.steps == LONGEST_STEPS
