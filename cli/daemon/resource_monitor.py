"""Room on the disk and in memory: when to look, and what it was that did not fit."""

from __future__ import annotations

from collections.abc import Callable

from cli.home.paths import Home
from journal.errors import NoSpace
from projections.machine import MachineView

FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 60.0
"""How often to look. Twice as long each time that the disk was full at once again, for what a disk says of its room is
not all: quotas and thin volumes refuse with gigabytes shown as free."""

MEASURE_EVERY_S = 5.0
"""How often the limits of the config are held against disk and memory."""

AGAIN_S = 1.0
"""What was measured so lately is not measured once more because something is to be begun: that may be many small
files, one after the other."""


class ResourceMonitor:
    """The room that a home's disk has, looked at in due time."""

    def __init__(self, home: Home, machine: Callable[[], MachineView | None]) -> None:
        self._home = home
        self.machine = machine
        """What the machine has and does now; None: nothing is known of it."""
        self._next_look = self._next_measure = 0.0
        self.wait_s = FIRST_WAIT_S
        """How long to wait before the next look."""

    def found(self, wanted_bytes: int) -> int | None:
        """How many bytes are free, if they are enough; None if not, or if it is not time to look yet."""
        now = self._home.clock.monotonic()
        if now < self._next_look:
            return None
        self._next_look = now + self.wait_s
        free_bytes = self.free_bytes()
        return free_bytes if free_bytes >= wanted_bytes else None

    def is_due(self, *, at_once: bool = False) -> bool:
        """Whether it is time to measure, or something is to be begun; asked once, it is due again after a while."""
        now = self._home.clock.monotonic()
        if now < self._next_measure - (MEASURE_EVERY_S - AGAIN_S if at_once else 0.0):
            return False
        self._next_measure = now + MEASURE_EVERY_S
        return True

    def free_bytes(self) -> int:
        """Of the disk, now."""
        return self._home.storage.free_bytes(self._home.root)

    def trusted_again(self) -> None:
        """Work goes on, on what the disk said: if it is full again, look less often."""
        self.wait_s = min(2 * self.wait_s, LONGEST_WAIT_S)

    def proved(self) -> None:
        """A checkpoint was written: the disk has what it says."""
        self.wait_s = FIRST_WAIT_S


def what_is_full(error: NoSpace | OSError) -> str:
    """In words."""
    path = error.path if isinstance(error, NoSpace) else error.filename
    return f"the disk is full: {path or 'a file of this home'} could not be written"
