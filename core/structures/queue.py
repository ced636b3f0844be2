"""The queue: three lanes, first in, first out within each; a held job keeps its place and is passed over.

A persistent linked list over one persistent map: an older state keeps its older queue, and pushing, removing, moving,
holding and looking at the front cost the same with ten jobs and with a hundred thousand. Consecutive
held jobs are a run, whose two ends know each other: so the queue passes over a front of any length in one step. Only a
change in the middle of a run looks for the nearer end.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from core.job import Job
from core.structures.maps import Map
from events.values import PRIORITIES, Priority


class Place(Struct, frozen=True, omit_defaults=True):
    """A job in its lane, with the ids of its neighbours there."""

    job: Job
    ahead: str | None = None
    after: str | None = None
    across: str | None = None
    """For a held job at either end of its run: the other end. Inside a run it means nothing."""

    @property
    def is_held(self) -> bool:
        """True if the queue passes it over."""
        return self.job.status == "held"


Places = Map[Place]


class Lane(Struct, frozen=True, omit_defaults=True):
    """The two ends of the line of one priority, and its length."""

    front: str | None = None
    back: str | None = None
    length: int = 0
    held: int = 0


class Queue(Struct, frozen=True):
    """Jobs that wait, in the order in which they will be taken."""

    lanes: tuple[Lane, ...] = tuple(Lane() for _ in PRIORITIES)
    places: Places = Map()

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Job]:
        for lane in self.lanes:
            job_id = lane.front
            while job_id is not None:
                place = self.places[job_id]
                yield place.job
                job_id = place.after

    @property
    def held(self) -> int:
        """The number of held jobs."""
        return sum(lane.held for lane in self.lanes)

    def get(self, job_id: str) -> Job | None:
        """The waiting job of this id."""
        place = self.places.get(job_id)
        return place.job if place else None

    def lane(self, priority: Priority) -> Lane:
        """The lane of this priority."""
        return self.lanes[PRIORITIES.index(priority)]

    def after(self, job_id: str) -> str | None:
        """The next job in its lane. Raises KeyError if this one does not wait."""
        return self.places[job_id].after

    def ready(self) -> Iterator[Job]:
        """The jobs that are not held, in the order in which they will be taken."""
        for lane in self.lanes:
            job_id = lane.front
            while job_id is not None:
                place = self.places[job_id]
                if place.is_held:
                    assert place.across is not None  # the first of a run, for it was come upon from ahead
                    place = self.places[place.across]
                else:
                    yield place.job
                job_id = place.after

    def front(self) -> Job | None:
        """The job that is taken next."""
        return next(self.ready(), None)

    def push(self, job: Job) -> Queue:
        """Add `job`, which is not held, at the back of its lane."""
        return self._inserted(job, None)

    def replaced(self, job: Job) -> Queue:
        """Replace the job of this id. Raises KeyError if it does not wait."""
        return Queue(self.lanes, self.places.insert(job.id, replace(self.places[job.id], job=job)))

    def moved(self, job_id: str, priority: Priority, before: str | None) -> Queue:
        """Move a job directly before another one of that lane (None: to its back); it stays held if it was.

        Raises KeyError if one of them does not wait.
        """
        job = self.places[job_id].job
        free = replace(job, priority=priority, status="queued")
        queue = self.remove(job_id)._inserted(free, before)
        return queue.hold(job_id) if job.status == "held" else queue

    def hold(self, job_id: str) -> Queue:
        """Hold a job that is not held. Raises KeyError if it does not wait."""
        place = self.places[job_id]
        places = self.places.insert(job_id, replace(place, job=replace(place.job, status="held")))
        first = last = job_id
        if (ahead := self._held(place.ahead)) is not None:
            first = ahead
        if (after := self._held(place.after)) is not None:
            last = after
        lane = self.lane(place.job.priority)
        return self._with(place.job.priority, replace(lane, held=lane.held + 1), _run(places, first, last))

    def release(self, job_id: str) -> Queue:
        """Release a held job. Raises KeyError if it does not wait."""
        place = self.places[job_id]
        first, last = self._run_around(job_id)
        places = self.places.insert(job_id, replace(place, job=replace(place.job, status="queued"), across=None))
        if first != job_id:
            assert place.ahead is not None  # it is not the first of its run
            places = _run(places, first, place.ahead)
        if last != job_id:
            assert place.after is not None
            places = _run(places, place.after, last)
        lane = self.lane(place.job.priority)
        return self._with(place.job.priority, replace(lane, held=lane.held - 1), places)

    def remove(self, job_id: str) -> Queue:
        """Remove a job. Raises KeyError if it does not wait."""
        if self.places[job_id].is_held:
            return self.release(job_id).remove(job_id)
        place = self.places[job_id]
        ahead, after = place.ahead, place.after
        places = self.places.remove(job_id)
        if ahead is not None:
            places = places.insert(ahead, replace(places[ahead], after=after))
        if after is not None:
            places = places.insert(after, replace(places[after], ahead=ahead))
        first, last = self._held(ahead), self._held(after)
        if first is not None and last is not None:  # two runs become one
            places = _run(places, first, last)
        lane = self.lane(place.job.priority)
        lane = replace(
            lane,
            front=after if lane.front == job_id else lane.front,
            back=ahead if lane.back == job_id else lane.back,
            length=lane.length - 1,
        )
        return self._with(place.job.priority, lane, places)

    def _inserted(self, job: Job, before: str | None) -> Queue:
        lane = self.lane(job.priority)
        ahead = lane.back if before is None else self.places[before].ahead
        places = self.places.insert(job.id, Place(job, ahead, before))
        if ahead is not None:
            places = places.insert(ahead, replace(places[ahead], after=job.id))
        if before is not None:
            places = places.insert(before, replace(places[before], ahead=job.id))
            if ahead is not None and self.places[before].is_held and self.places[ahead].is_held:  # a run is cut in two
                first, last = self._run_around(before)
                places = _run(_run(places, first, ahead), before, last)
        lane = replace(
            lane,
            front=job.id if ahead is None else lane.front,
            back=job.id if before is None else lane.back,
            length=lane.length + 1,
        )
        return self._with(job.priority, lane, places)

    def _held(self, neighbour: str | None) -> str | None:
        """The far end of the run that starts with a neighbour; None if the neighbour is not held."""
        place = self.places[neighbour] if neighbour is not None else None
        return place.across if place is not None and place.is_held else None

    def _run_around(self, job_id: str) -> tuple[str, str]:
        """The first and the last job of the run of a held job; it looks both ways, so it finds the nearer end."""
        ahead = after = self.places[job_id]
        while True:
            if (end := self._end(ahead, ahead.ahead)) is not None:
                return ahead.job.id, end
            if (end := self._end(after, after.after)) is not None:
                return end, after.job.id
            assert ahead.ahead is not None  # else it were an end
            assert after.after is not None
            ahead, after = self.places[ahead.ahead], self.places[after.after]

    def _end(self, place: Place, beyond: str | None) -> str | None:
        """The other end, if the job `beyond` makes this place an end of its run."""
        return place.across if beyond is None or not self.places[beyond].is_held else None

    def _with(self, priority: Priority, lane: Lane, places: Places) -> Queue:
        at = PRIORITIES.index(priority)
        return Queue((*self.lanes[:at], lane, *self.lanes[at + 1 :]), places)


def _run(places: Places, first: str, last: str) -> Places:
    """Set the ends of a run of held jobs."""
    places = places.insert(first, replace(places[first], across=last))
    return places.insert(last, replace(places[last], across=first))
