"""Brings one tool up to date with the journal. What was sent is known from the cursor; all else follows from the fold.

In the fold, later steps come from later records. So the points up to the cursor's record are the beginning of the
curve, and the tool has exactly these. There are two exceptions: the record is no longer part of the fold (its step ran
again, or was rolled back), or this process was killed before it moved the cursor. Then what follows is removed first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from msgspec.structs import replace

from cli.home.metrics_reader import MetricsReader
from cli.home.paths import Home
from cli.report.progress import Progress, Sent, read_progress, rebuild_file, write_progress
from cli.report.writer import OverwritingWriter, Target, Writer
from events.codec import decode_record
from journal import PositionLost, durable, follow_in_batches
from projections.metrics import GROUPS, Group

LIMIT_S = 120.0
"""A tool that takes longer for one batch does not answer. W&B waits 90 s for the first connection."""

BATCH = 2_000
"""Points that are sent before the cursor moves: a long history is sent in parts, and a kill repeats one of them."""


class Sync:
    """One tool and one home. `allow` is called with the seconds that the next call of the tool may take."""

    def __init__(
        self, home: Home, name: str, project: str, kind: type[Writer], allow: Callable[[float], None] = lambda _: None
    ) -> None:
        self._allow = allow
        self._home, self._name, self._project, self._kind = home, name, project, kind
        self._reader = MetricsReader(home)
        self._writer: Writer | None = None
        self._unchecked = set(GROUPS)
        """Groups of which the tool may have more than the cursor says: it was moved after the points were sent."""
        self._progress = read_progress(home, name)
        if not self._progress.run:
            self._progress = replace(self._progress, run=home.root.resolve().name)
        try:
            next(follow_in_batches(home.journal, decode_record, self._progress.position, storage=home.storage))
        except PositionLost:
            self._reset()

    def catch_up(self) -> None:
        """Send what is new, and move the cursor. Raises what the tool raises, OSError, journal.errors.JournalError."""
        self._allow(math.inf)  # reading a long journal takes as long as it takes
        request = rebuild_file(self._home, self._name)
        wanted = self._home.storage.lexists(request)
        if not self._reader.catch_up() or wanted:
            self._reset()
            self._save(self._progress)
        if wanted:
            self._home.storage.unlink(request)
        self._allow(LIMIT_S)
        while not self._send():
            self._reset()
        self._allow(math.inf)

    def _reset(self) -> None:
        """Forget what was sent. A tool that cannot overwrite gets another run."""
        self.close()
        old = self._progress
        generation = old.generation + (bool(old.sent) and not issubclass(self._kind, OverwritingWriter))
        self._progress = Progress(run=old.run, generation=generation, place=old.place)
        self._unchecked = set(GROUPS)

    def _send(self) -> bool:
        """Send what is new. False if the tool has points that are no longer true and cannot remove them."""
        writer, metrics = self._connected(), self._reader.metrics
        for group in GROUPS:
            sent = self._progress.sent.get(group, Sent())
            seq, step = metrics.newest(group, sent.seq) or (0, -1)
            is_true = seq == sent.seq  # what was sent last is still a point
            if isinstance(writer, OverwritingWriter):
                if not is_true or group in self._unchecked:
                    writer.cut(group, step + 1)
            elif not is_true:
                return False
            self._unchecked.discard(group)
            points = list(metrics.points(group, seq))
            if not isinstance(writer, OverwritingWriter):
                points = [point for point in points if point.global_step <= metrics.committed_step]
            if seq != sent.seq:
                self._save_sent(group, Sent(seq, step))
            for start in range(0, len(points), BATCH):
                batch = points[start : start + BATCH]
                writer.write(group, batch)
                self._save_sent(group, Sent(batch[-1].seq, batch[-1].global_step))
                self._allow(LIMIT_S)
        position, done_at = self._reader.position, self._progress.done_at
        done = replace(self._progress, position=position, place=writer.place, error=None, failed_at=0.0)
        if done != self._progress or not done_at:
            self._save(replace(done, done_at=time.time()))
        return True

    def _connected(self) -> Writer:
        """The writer, opened if it is not; the cursor is then compared with what the tool really has."""
        if self._writer is not None:
            return self._writer
        progress = self._progress
        suffix = f"-{progress.generation}" if progress.generation > 1 else ""
        directory = self._home.metrics / self._name
        for path in (self._home.metrics, directory):
            durable.make_directory(path, storage=self._home.storage)
        identity = self._reader.metrics.home_id
        target = Target(directory, self._project, f"{progress.run}{suffix}", f"{identity}{suffix}")
        writer = self._writer = self._kind(target)
        if not isinstance(writer, OverwritingWriter):
            return writer
        for group, sent in progress.sent.items():
            has = writer.last_step(group)
            if has < sent.step:  # a user deleted it, or it was not on disk when the power failed
                kept = [point for point in self._reader.metrics.points(group) if point.global_step <= has]
                there = Sent(kept[-1].seq, kept[-1].global_step) if kept else Sent()
                self._progress = replace(self._progress, sent={**self._progress.sent, group: there})
        return writer

    def _save_sent(self, group: Group, sent: Sent) -> None:
        self._save(replace(self._progress, sent={**self._progress.sent, group: sent}))

    def _save(self, progress: Progress) -> None:
        write_progress(self._home, self._name, progress)
        self._progress = progress

    def close(self) -> None:
        """End the connection to the tool."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
