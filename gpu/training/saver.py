"""Saves checkpoints while training continues: a step boundary copies the state, and a thread writes the copy.

A checkpoint is in flight from its copy until the daemon has journaled it. Only one is in flight at a time, so the
parent of every checkpoint is committed.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from events.settings import CheckpointSettings
from events.values import CheckpointId, CheckpointReason
from gpu.artifacts.checkpoint import Snapshot, write
from gpu.ipc.worker_channel import Heartbeats, WorkerChannel
from journal.failpoints import failpoint


class Saver:
    """Saves the checkpoints of one attempt."""

    def __init__(
        self,
        checkpoints: Path,
        cadence: CheckpointSettings,
        channel: WorkerChannel,
        heartbeats: Heartbeats,
        parent: CheckpointId | None,
    ) -> None:
        self._checkpoints = checkpoints
        self._cadence = cadence
        self._channel = channel
        self._heartbeats = heartbeats
        self._parent = parent
        self._in_flight: CheckpointId | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._saved_at = time.monotonic()

    @property
    def parent(self) -> CheckpointId | None:
        """The newest committed checkpoint: the parent of the next one."""
        return self._parent

    def due(self, steps_unsaved: int) -> CheckpointReason | None:
        """Return why a checkpoint is due now; None if none is.

        While another one is in flight, the answer is None; a checkpoint that becomes due then is saved at the first
        step boundary after. Raises the error of the writing thread.
        """
        if not self._is_idle():
            return None
        if 0 < self._cadence.every_steps <= steps_unsaved:
            return "steps"
        if 0 < self._cadence.every_seconds <= time.monotonic() - self._saved_at:
            return "time"
        return None

    def begin(self, snapshot: Snapshot) -> None:
        """Start to write `snapshot`. Nothing else may be in flight."""
        self._in_flight = snapshot.checkpoint
        self._saved_at = time.monotonic()
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="saver", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until nothing is in flight. Raises the error of the writing thread."""
        if self._thread is not None:
            self._thread.join()
        self._raise_error()
        if self._in_flight is not None:
            self._channel.wait_committed(self._in_flight)
        self._is_idle()

    def _is_idle(self) -> bool:
        self._raise_error()
        if self._in_flight is not None and self._channel.is_committed(self._in_flight):
            self._parent, self._in_flight = self._in_flight, None
        return self._in_flight is None

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _write(self, snapshot: Snapshot) -> None:
        try:
            self._heartbeats.beat("checkpoint", 0, 1, force=True)  # starts the deadline of the checkpoint
            written = write(
                self._checkpoints, snapshot, lambda done, total: self._heartbeats.beat("checkpoint", done, total)
            )
            failpoint("before_report")
            self._channel.send(written)
            failpoint("reported")
        except BaseException as error:  # noqa: BLE001 - the training raises it at its next step boundary
            self._error = error
