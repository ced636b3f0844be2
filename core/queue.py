"""The queue: three lanes, first in, first out within each.

A persistent linked list over one persistent map: an older state keeps its older queue, and pushing, removing and
looking at the front cost the same with ten jobs and with a hundred thousand.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from core.job import Job
from core.maps import Map
from events.values import PRIORITIES, Priority


class Place(Struct, frozen=True):
    """A job in its lane, with the ids of its neighbours there."""

    job: Job
    ahead: str | None
    behind: str | None


class Lane(Struct, frozen=True):
    """The two ends of one priority's line."""

    front: str | None = None
    back: str | None = None


class Queue(Struct, frozen=True):
    """Jobs that wait, in the order in which they will be taken."""

    lanes: tuple[Lane, ...] = tuple(Lane() for _ in PRIORITIES)
    places: Map[Place] = Map()

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Job]:
        for lane in self.lanes:
            job_id = lane.front
            while job_id is not None:
                place = self.places[job_id]
                yield place.job
                job_id = place.behind

    def get(self, job_id: str) -> Job | None:
        """The waiting job of this id."""
        place = self.places.get(job_id)
        return place.job if place else None

    def front(self) -> Job | None:
        """The job that is taken next."""
        for lane in self.lanes:
            if lane.front is not None:
                return self.places[lane.front].job
        return None

    def push(self, job: Job) -> Queue:
        """The queue with `job` at the back of its lane."""
        lane = self._lane(job.priority)
        places = self.places.insert(job.id, Place(job, ahead=lane.back, behind=None))
        if lane.back is not None:
            places = places.insert(lane.back, replace(places[lane.back], behind=job.id))
        return self._with_lane(job.priority, Lane(lane.front or job.id, job.id), places)

    def replaced(self, job: Job) -> Queue:
        """The queue with `job` in the place of the one of its id. Raises KeyError if that does not wait."""
        return Queue(self.lanes, self.places.insert(job.id, replace(self.places[job.id], job=job)))

    def remove(self, job_id: str) -> Queue:
        """The queue without that job. Raises KeyError if it does not wait."""
        place = self.places[job_id]
        lane = self._lane(place.job.priority)
        places = self.places.remove(job_id)
        if place.ahead is not None:
            places = places.insert(place.ahead, replace(places[place.ahead], behind=place.behind))
        if place.behind is not None:
            places = places.insert(place.behind, replace(places[place.behind], ahead=place.ahead))
        lane = Lane(
            front=place.behind if lane.front == job_id else lane.front,
            back=place.ahead if lane.back == job_id else lane.back,
        )
        return self._with_lane(place.job.priority, lane, places)

    def _lane(self, priority: Priority) -> Lane:
        return self.lanes[PRIORITIES.index(priority)]

    def _with_lane(self, priority: Priority, lane: Lane, places: Map[Place]) -> Queue:
        at = PRIORITIES.index(priority)
        return Queue((*self.lanes[:at], lane, *self.lanes[at + 1 :]), places)
