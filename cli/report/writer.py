"""A writer: sends points to one tool."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from projections.metrics import Group, Point


class Target(NamedTuple):
    """The run that a writer writes to."""

    directory: Path
    """For the files of the tool; it exists, in the home."""
    project: str
    run: str
    """Name of the run."""
    id: str
    """Identifies the run in all tools; the same after a restart."""


class Writer(ABC):
    """A connection to one tool. Every method may raise what the tool raises.

    It cannot remove a point, so it gets committed steps alone, and another run after a rollback.
    """

    @abstractmethod
    def __init__(self, target: Target) -> None:
        """Connect to the tool, and continue the run if it exists."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the user finds the points: a command or an address."""

    @abstractmethod
    def write(self, group: Group, points: Sequence[Point]) -> None:
        """Add points, in the order of their steps. The tool has stored them when this returns.

        A point that was sent before and is sent again after a crash is not stored twice.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """End the connection."""


class OverwritingWriter(Writer):
    """A connection to a tool that says what it has, and can remove it. It gets each step at once."""

    @abstractmethod
    def last_step(self, group: Group) -> int:
        """The last step that the tool has; -1: none."""

    @abstractmethod
    def cut(self, group: Group, step: int) -> None:
        """Remove the points from `step` on."""
