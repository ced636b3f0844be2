"""The topic that the running attempt belongs to: a job, a consolidation, or the evaluation of a version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from core import commands
from core.errors import IllegalEvent
from core.tables import DecideTable, Events
from core.topics import attempts, consolidation
from core.topics.evaluation import versions
from events.kinds import AnyEvent

if TYPE_CHECKING:
    from core.state import State


class RunningTopic(Protocol):
    """What a topic has whose work runs as an attempt."""

    @property
    def DECIDE_WHILE_RUNNING(self) -> DecideTable:  # noqa: N802  # a constant of the module
        """Handlers that take the place of the others while the attempt runs."""

    def interrupted(self, state: State, /) -> list[AnyEvent]:
        """The events after which the attempt has lost its daemon."""

    def impossible(self, state: State, error: IllegalEvent, now: float, /) -> Events:
        """The events after a report that cannot be true."""

    def fail_for_full_disk(self, state: State, command: commands.ReportDiskFull, now: float, /) -> Events:
        """The events that end the attempt and wait for disk space."""


def running_topic(state: State) -> RunningTopic:
    """The topic of the running attempt; that of jobs if none runs."""
    if state.consolidation.running is not None:
        return consolidation
    if state.evaluations.running is not None:
        return versions
    return attempts
