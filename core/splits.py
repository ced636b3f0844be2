"""How a step that does not fit into memory is made smaller, and for how long. Pure policy."""

from __future__ import annotations

from events.course import Course, Split

FIRST_STEPS = 64
"""How long a first split holds before larger parts are tried again: what else needed the memory may be gone by then,
and if it was one heavy batch, 64 smaller steps cost little. Each further split holds twice as long, so that a job which
never fits whole tries in vain only a few times: six in four thousand steps."""

LONGEST_STEPS = 2**20


def halved(course: Course, step: int, sequences: int) -> Split | None:
    """The split under which `step` of a job is run again, after at most `sequences` together did not fit.

    None: it was one sequence already, and nothing can be cut.

    >>> halved(Course(), 7, 4)
    Split(step=7, parts=2, steps=64)
    """
    if sequences <= 1:
        return None
    earlier = sum(split.step < step for split in course.splits)
    return Split(step=step, parts=2 * course.parts_at(step), steps=min(LONGEST_STEPS, FIRST_STEPS << min(earlier, 20)))
