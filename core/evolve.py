"""Events in, state out.

`evolve` accepts every legal event. It raises on an illegal one before it builds anything, so the state stays as it was.
Each topic has the handlers of its events; the changes of status stand in `transitions.py`.
"""

from __future__ import annotations

from core.state import State
from core.tables import Topic, composed
from core.topics import (
    attempts,
    config,
    consolidation,
    consolidation_request,
    daemon,
    disk,
    disk_limits,
    head,
    memory,
    outcomes,
    queue,
    recovery,
    retention,
    step_recovery,
    training,
)
from core.topics.evaluation import held, jobs, samples, validation, versions
from events.kinds import EVENT_TYPES, AnyEvent


def evolve(state: State, event: AnyEvent) -> State:
    """The state after `event`. Raises IllegalEvent, and `state` stays as it was."""
    return EVOLVE[type(event)](state, event)


TOPICS: tuple[Topic, ...] = (
    daemon,
    queue,
    attempts,
    training,
    validation,
    samples,
    jobs,
    step_recovery,
    recovery,
    outcomes,
    head,
    retention,
    consolidation_request,
    consolidation,
    versions,
    held,
    disk,
    disk_limits,
    memory,
    config,
)
"""Every topic. A new one is added here."""

EVOLVE = composed((topic.EVOLVE for topic in TOPICS), EVENT_TYPES)
