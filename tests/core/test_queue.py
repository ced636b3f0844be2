"""The queue: first in, first out within each lane, whatever is taken out of the middle."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from core.job import Job
from core.queue import Queue
from events.values import PRIORITIES, Priority
from tests.core.world import job_id

OPERATIONS = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(PRIORITIES)), max_size=60)


def job(number: int, priority: Priority = "normal") -> Job:
    """A job that waits."""
    return Job(id=job_id(number), name=f"{number}", size_bytes=1, priority=priority)


def filled(*jobs: Job) -> Queue:
    """A queue of these."""
    queue = Queue()
    for each in jobs:
        queue = queue.push(each)
    return queue


def test_jobs_leave_by_priority_and_then_by_arrival() -> None:
    """High before normal before low; the first to come is the first within each."""
    queue = filled(job(1, "low"), job(2), job(3, "high"), job(4), job(5, "high"))
    assert [each.name for each in queue] == ["3", "5", "2", "4", "1"]


def test_the_front_of_an_empty_queue_is_nothing() -> None:
    """And it has no length."""
    assert Queue().front() is None
    assert len(Queue()) == 0


@settings(max_examples=80, deadline=None, database=None)
@given(OPERATIONS)
def test_the_queue_is_three_lists(operations: list[tuple[int, Priority]]) -> None:
    """A number that waits is removed, one that does not is pushed: as with plain lists, and no older queue changes."""
    queue, lanes = Queue(), {priority: list[str]() for priority in PRIORITIES}
    history: list[tuple[Queue, list[str]]] = []
    for number, priority in operations:
        name = f"{number}"
        if queue.get(job_id(number)) is None:
            queue = queue.push(job(number, priority))
            lanes[priority].append(name)
        else:
            queue = queue.remove(job_id(number))
            next(lane for lane in lanes.values() if name in lane).remove(name)
        expected = [name for priority in PRIORITIES for name in lanes[priority]]
        front = queue.front()
        assert (front.name if front else None) == (expected[0] if expected else None)
        assert len(queue) == len(expected)
        history.append((queue, expected))
    for older, expected in history:
        assert [each.name for each in older] == expected


def test_a_change_touches_only_the_neighbours() -> None:
    """With a thousand jobs waiting, pushing and removing write at most three places."""
    queue = filled(*(job(number) for number in range(1000)))
    removed = queue.remove(job_id(500))
    changed = [key for key, place in removed.places.items() if queue.places[key] is not place]
    assert sorted(changed) == [job_id(499), job_id(501)]
    pushed = queue.push(job(1000))
    assert [key for key, place in pushed.places.items() if queue.places.get(key) is not place] != []
    assert sum(queue.places.get(key) is not place for key, place in pushed.places.items()) == 2
