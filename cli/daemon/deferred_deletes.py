"""What the journal has given up and the disk would not let go of: said, and tried again until it is gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cli.daemon.sweep import discard
from cli.errors import is_disk_full
from cli.home.paths import Home

AGAIN_AFTER_S = 60.0
"""A directory that somebody reads, a share that is away: minutes. The next start sweeps in any case."""


class DeferredDeletes:
    """Deletes, and remembers what it could not delete."""

    def __init__(self, home: Home, write: Callable[[str], None]) -> None:
        self._home, self._write = home, write
        self.left: dict[Path, float] = {}
        """When each is tried again; monotonic seconds."""

    def discard(self, directory: Path) -> int | None:
        """Delete it, and say how many bytes that were; if it fails, say so, and keep it in mind.

        Raises OSError only if the disk is full.
        """
        try:
            size_bytes = discard(self._home, directory)
        except OSError as error:
            if is_disk_full(error):
                raise
            if directory not in self.left:
                reason = error.strerror or str(error)
                self._write(f"{self._home.relative(directory)} cannot be deleted yet ({reason}); it is tried again")
            self.left[directory] = self._home.clock.monotonic() + AGAIN_AFTER_S
            return None
        self.left.pop(directory, None)
        return size_bytes

    def try_again(self) -> None:
        """Delete what is due."""
        now = self._home.clock.monotonic()
        for directory in [directory for directory, at in self.left.items() if at <= now]:
            self.discard(directory)
