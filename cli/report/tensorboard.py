"""Writes event files for TensorBoard: one run of training and one of evaluations, so that their losses overlap.

A group has a directory, and each of its files at most FILE_STEPS steps. Appended events are synced before the cursor
moves. To remove steps, a new file is begun and the older ones are truncated: so each step is in the files once, for
every reader. A TensorBoard that runs advances to the new file, whose beginning says from which step on it discards what
it has read. A file is never deleted: TensorBoard would wait for it forever.
"""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter

from cli.report.writer import OverwritingWriter, Target
from journal import durable
from journal.storage import REAL
from projections.metrics import Group, Point

FILE_STEPS = 20_000
"""Steps in one file: reading it to replace its end takes half a second."""

EVENT_FORMAT = "brain.Event:2"
"""From this format on, readers obey the step of a session's start."""

HEAD_BYTES = 256
"""More than the two events at the beginning of a file."""

LENGTH, CRC = struct.Struct("<Q"), struct.Struct("<I")


class TensorBoard(OverwritingWriter):
    """The event files of one home."""

    def __init__(self, target: Target) -> None:
        self._directory = target.directory

    @property
    def place(self) -> str:
        """The command that shows the files."""
        return f"tensorboard --logdir {self._directory}"

    def last_step(self, group: Group) -> int:
        """The last step of the newest file with whole events."""
        for path in reversed(self._files(group)):
            steps = [event.step for event, _ in read_events(path.read_bytes()) if event.HasField("summary")]
            if steps:
                return int(steps[-1])
        return -1

    def cut(self, group: Group, step: int) -> None:
        """Truncate the files at their first event from `step` on, and at the first one that is not whole."""
        shorter: list[tuple[Path, int]] = []
        for path in reversed(self._files(group)):
            data = path.read_bytes()
            kept_bytes, steps = 0, 0
            for event, end in read_events(data):
                if event.HasField("summary") and event.step >= step:
                    break
                kept_bytes, steps = end, steps + event.HasField("summary")
            if kept_bytes < len(data):
                shorter.append((path, kept_bytes))
            if steps:
                break
        if not shorter:
            return
        self._create(group, step, ())  # first: a reader of a truncated file must find the next one
        for path, length in shorter:
            with durable.opened(REAL, path, os.O_RDWR) as fd:
                REAL.truncate(fd, length)
                REAL.fsync(fd)

    def write(self, group: Group, points: Sequence[Point]) -> None:
        """Append the points, and sync them."""
        events = [_event(point) for point in points if point.values]
        files = self._files(group)
        if files and events and events[-1].step - _first_step(files[-1]) < FILE_STEPS:
            with durable.opened(REAL, files[-1], os.O_WRONLY | os.O_APPEND) as fd:
                durable.write_all(REAL, fd, b"".join(map(_record, events)))
                REAL.fdatasync(fd)
            return
        for start in range(0, len(events), FILE_STEPS):
            part = events[start : start + FILE_STEPS]
            self._create(group, part[0].step, part)

    def _create(self, group: Group, step: int, events: Sequence[Event]) -> None:
        """Begin a file: a reader discards all steps from `step` on that it has read from earlier files."""
        files = self._files(group)
        number = int(files[-1].name.split(".")[3]) + 1 if files else 1
        path = self._directory / group / f"events.out.tfevents.{number:010d}.keepstep"
        durable.make_directory(path.parent)
        at = events[0].wall_time if events else time.time()
        start = SessionLog(status=SessionLog.START)
        head = [
            Event(wall_time=at, file_version=EVENT_FORMAT),
            Event(wall_time=at, step=step, session_log=start),
        ]
        durable.write_atomically(path, b"".join(map(_record, [*head, *events])), sync=True)

    def _files(self, group: Group) -> list[Path]:
        """The files of a group, oldest first."""
        return sorted((self._directory / group).glob("events.out.tfevents.*.keepstep"))


def read_events(data: bytes) -> Iterator[tuple[Event, int]]:
    """The whole events at the beginning of the bytes of a file, each with the place of its end."""
    place = 0
    while place + LENGTH.size + CRC.size <= len(data):
        header = data[place : place + LENGTH.size]
        (length,) = LENGTH.unpack(header)
        start = place + LENGTH.size + CRC.size
        body, place = data[start : start + length], start + length + CRC.size
        sums = data[start - CRC.size : start] + data[start + length : place]
        if place > len(data) or sums != CRC.pack(masked_crc32c(header)) + CRC.pack(masked_crc32c(body)):
            return
        yield Event.FromString(body), place


def _first_step(path: Path) -> float:
    """The step at which a file begins; minus infinity if its beginning is not whole, so that nothing is appended."""
    with path.open("rb") as file:
        starts = [event.step for event, _ in read_events(file.read(HEAD_BYTES)) if event.HasField("session_log")]
    return starts[0] if starts else -math.inf


def _event(point: Point) -> Event:
    values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
    return Event(wall_time=point.at, step=point.global_step, summary=Summary(value=values))


def _record(event: Event) -> bytes:
    written = BytesIO()
    RecordWriter(written).write(event.SerializeToString(deterministic=True))
    return written.getvalue()
