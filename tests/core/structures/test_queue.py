"""The queue: first in, first out within each lane, whatever is taken out of the middle."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.job import Job
from core.structures.maps import Map
from core.structures.queue import Queue
from events.values import PRIORITIES, Priority
from tests.core.world import job_id

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["remove", "hold", "hold", "move"]),
        st.integers(0, 12),
        st.sampled_from(PRIORITIES),
        st.integers(0, 12),
    ),
    max_size=80,
)


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


@settings(max_examples=300, deadline=None, database=None)
@given(OPERATIONS)
def test_the_queue_is_three_lists(operations: list[tuple[str, int, Priority, int]]) -> None:
    """Pushed, removed, moved, held, released: as with plain lists, and no older queue changes."""
    queue, lanes, held = Queue(), {priority: list[str]() for priority in PRIORITIES}, set[str]()
    history: list[tuple[Queue, list[str]]] = []
    for what, number, priority, other in operations:
        name = f"{number}"
        lane = next((lane for lane in lanes.values() if name in lane), None)
        if lane is None:
            queue = queue.push(job(number, priority))
            lanes[priority].append(name)
        elif what == "remove":
            queue = queue.remove(job_id(number))
            lane.remove(name)
            held.discard(name)
        elif what == "hold":
            queue = queue.release(job_id(number)) if name in held else queue.hold(job_id(number))
            held ^= {name}
        else:
            before = f"{other}" if f"{other}" in lanes[priority] and other != number else None
            queue = queue.moved(job_id(number), priority, job_id(other) if before else None)
            lane.remove(name)
            lanes[priority].insert(lanes[priority].index(before) if before else len(lanes[priority]), name)
        expected = [name for priority in PRIORITIES for name in lanes[priority]]
        ready = [name for name in expected if name not in held]
        assert [each.name for each in queue.ready()] == ready
        front = queue.front()
        assert (front.name if front else None) == (ready[0] if ready else None)
        assert len(queue) == len(expected)
        assert queue.held == len(held)
        assert [lane.length for lane in queue.lanes] == [len(lanes[priority]) for priority in PRIORITIES]
        history.append((queue, expected))
    for older, expected in history:
        assert [each.name for each in older] == expected


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every place that is looked up."""
    seen: list[str] = []
    get = Map.get

    def counted(self: Map[Any], key: str) -> Any:
        seen.append(key)
        return get(self, key)

    monkeypatch.setattr(Map, "get", counted)
    return seen


def test_a_thousand_held_jobs_are_passed_over_in_one_step(looked_up: list[str]) -> None:
    """However they came to be held: in order, from the end, in any order, with some released and held again."""
    numbers = list(range(1000))
    for order in (numbers, numbers[::-1], random.Random(1).sample(numbers, 1000)):
        queue = Queue()
        for number in range(1001):
            queue = queue.push(job(number))
        for number in order:
            queue = queue.hold(job_id(number))
        for number in (0, 500, 999):
            queue = queue.release(job_id(number)).hold(job_id(number))
        looked_up.clear()
        front = queue.front()
        assert front is not None
        assert front.name == "1000"
        assert len(looked_up) < 10


def test_what_is_held_is_released_again_at_the_cost_of_the_nearer_end(looked_up: list[str]) -> None:
    """From the front, from the back and in any order, not each by a walk through all the others."""
    numbers = list(range(2000))
    for order in (numbers, numbers[::-1], random.Random(2).sample(numbers, 2000)):
        queue = Queue()
        for number in numbers:
            queue = queue.push(job(number))
        for number in numbers:
            queue = queue.hold(job_id(number))
        looked_up.clear()
        for number in order:
            queue = queue.release(job_id(number))
        assert len(looked_up) < 60 * len(numbers)
        assert queue.held == 0


def test_a_change_touches_only_the_neighbours() -> None:
    """With a thousand jobs waiting, pushing and removing write at most three places."""
    queue = filled(*(job(number) for number in range(1000)))
    removed = queue.remove(job_id(500))
    changed = [key for key, place in removed.places.items() if queue.places[key] is not place]
    assert sorted(changed) == [job_id(499), job_id(501)]
    pushed = queue.push(job(1000))
    assert [key for key, place in pushed.places.items() if queue.places.get(key) is not place] != []
    assert sum(queue.places.get(key) is not place for key, place in pushed.places.items()) == 2
