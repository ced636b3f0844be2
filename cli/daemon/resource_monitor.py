"""Free space and memory: when to measure them, and what is said of a full disk."""

from __future__ import annotations

from collections.abc import Callable

from cli.config.model_files import weights_bytes
from cli.config.schema import Config
from cli.home.paths import Home
from core.commands import MeasureDisk
from events.settings import ModelSettings
from journal.errors import NoSpace
from projections.machine import MachineView

FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 60.0
"""Time between two looks at a full disk. It doubles each time that the disk is full again at once: quotas and thin
volumes refuse writes while they report gigabytes as free."""

MEASURE_EVERY_S = 5.0
"""Time between two checks of disk and memory against the limits of the config."""

FRESH_S = 1.0
"""A measurement of this age is not repeated before the next job starts: there may be many small jobs in a row."""


class ResourceMonitor:
    """Says when a measurement is due, and how much is free."""

    def __init__(self, home: Home, machine: Callable[[], MachineView | None]) -> None:
        self._home = home
        self.machine = machine
        """Measures the machine; None: it cannot be measured."""
        self._next_look = self._next_measure = 0.0
        self._model_bytes: dict[ModelSettings, int] = {}
        self.wait_s = FIRST_WAIT_S
        """Time until the next look at a full disk."""

    def enough_free_bytes(self, wanted_bytes: int) -> int | None:
        """The free bytes of the disk if they are at least `wanted_bytes`; None if not, or if no look is due."""
        now = self._home.clock.monotonic()
        if now < self._next_look:
            return None
        self._next_look = now + self.wait_s
        free_bytes = self.free_bytes()
        return free_bytes if free_bytes >= wanted_bytes else None

    def is_due(self, *, at_once: bool = False) -> bool:
        """True if a measurement is due, which schedules the next one. `at_once`: a job starts, so an old one counts."""
        now = self._home.clock.monotonic()
        if now < self._next_measure - (MEASURE_EVERY_S - FRESH_S if at_once else 0.0):
            return False
        self._next_measure = now + MEASURE_EVERY_S
        return True

    def free_bytes(self) -> int:
        """Free bytes of the disk that holds the home. Raises OSError."""
        return self._home.storage.free_bytes(self._home.root)

    def disk_command(self, config: Config) -> MeasureDisk:
        """The command that compares the disk with the limits of `config`. Raises OSError."""
        return MeasureDisk(
            free_bytes=self.free_bytes(),
            total_bytes=self._home.storage.total_bytes(self._home.root),
            model_bytes=self._bytes_of(config.job.model) if "auto" in (config.disk.soft_gb, config.disk.hard_gb) else 0,
            disk=config.disk,
            retention=config.retention,
        )

    def _bytes_of(self, model: ModelSettings) -> int:
        """Bytes of the weights of the model; 0 if it is not on this machine. A known size is not measured again."""
        if not self._model_bytes.get(model):
            self._model_bytes = {model: weights_bytes(model, self._home.root) or 0}
        return self._model_bytes[model]

    def back_off(self) -> None:
        """Look less often: work resumes, but the disk may be full again at once."""
        self.wait_s = min(2 * self.wait_s, LONGEST_WAIT_S)

    def reset_backoff(self) -> None:
        """Look often again: a checkpoint was written, so the disk has the space that it reports."""
        self.wait_s = FIRST_WAIT_S


def disk_full_message(error: NoSpace | OSError) -> str:
    """What was being written when the disk was full."""
    path = error.path if isinstance(error, NoSpace) else error.filename
    return f"the disk is full: {path or 'a file of this home'} could not be written"
