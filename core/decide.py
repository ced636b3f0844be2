"""Commands and reports of the worker in, events out. Each topic has the handlers of its commands and reports."""

from __future__ import annotations

from typing import get_args

from core.commands import AnyCommand
from core.errors import IllegalEvent
from core.evolve import TOPICS, evolve
from core.state import State
from core.tables import Events, composed
from core.topics.running import running_topic
from events import messages


def decide(state: State, command: AnyCommand, now: float) -> Events:
    """The events that `command` leads to; none if nothing changes. `now`: Unix time, seconds.

    Raises Refused with the reason. A report of the worker that cannot be true is no event: its attempt has failed.
    """
    handler = DECIDE[type(command)]
    running = running_topic(state)
    if getattr(command, "attempt", state.attempts.current) == state.attempts.current:
        handler = running.DECIDE_WHILE_RUNNING.get(type(command), handler)
    if not isinstance(command, messages.Fact):
        return handler(state, command, now)
    try:
        events = handler(state, command, now)
        after = state
        for event in events:
            after = evolve(after, event)
    except IllegalEvent as error:
        return running.impossible(state, error, now)
    return events


DECIDE = composed((topic.DECIDE for topic in TOPICS), get_args(AnyCommand))
