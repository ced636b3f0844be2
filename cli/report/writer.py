"""A writer: sends points to one tool."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

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
    """A connection to one tool. Every method may raise what the tool raises."""

    overwrites: ClassVar[bool]
    """True if points can be removed. If not, it gets committed steps alone, and another run after a rollback."""

    @abstractmethod
    def __init__(self, target: Target) -> None:
        """Connect to the tool, and continue the run if it exists."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the user finds the points: a command or an address."""

    def last_step(self, group: Group) -> float:  # noqa: ARG002 - for those who know
        """The last step that the tool has; -1: none; infinite: not known, so the cursor is believed."""
        return math.inf

    def cut(self, group: Group, step: int) -> None:
        """Remove the points from `step` on. Only for writers that overwrite."""
        raise NotImplementedError

    @abstractmethod
    def write(self, group: Group, points: Sequence[Point]) -> None:
        """Add points, in the order of their steps. The tool has stored them when this returns.

        A point that was sent before and is sent again after a crash is not stored twice.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """End the connection."""
