"""Benchmark appends and replays of the journal against the fastest that the machine can do.

    python benchmarks/bench_journal.py

Appends: one event a transaction, on disk when it returns. They are compared with a bare write and fdatasync of the same
bytes, and with SQLite (WAL, synchronous=FULL, one INSERT a commit). All take turns in rounds within one run, because a
disk's speed drifts by more than the differences. The result is the median over rounds of the ratios.

Replay: read, check CRC and chain, decode. It is compared with msgspec decoding the same lines from memory.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec

from events import codec
from events.kinds import StepReached
from journal import Journal, lines
from journal.storage import Storage

AT = "2026-11-22T03:00:00.123456Z"
ROUNDS = 15
APPENDS_PER_ROUND = 100
REPLAY_EVENTS = 200_000

Row = tuple[str, float, str, float]
"""Name, figure, unit, and ratio to the fastest known way."""


class Unsynced(Storage):
    """A disk without fsync, to fill a journal fast before it is read."""

    def fdatasync(self, fd: int) -> None:
        pass


def event(step: int) -> bytes:
    """The event that a training run journals most often."""
    return codec.encode(
        StepReached(
            job="3b" * 32,
            attempt=7,
            global_step=120_000 + step,
            step=step,
            epoch=0,
            loss=1.9182736450,
            grad_norm=0.7182818284,
            learning_rate=0.00019732,
            tokens=4096,
            seconds=0.48213,
        )
    )


def per_second(count: int, work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return count / (time.perf_counter() - begun)


def appends(directory: Path) -> list[Row]:
    events = [event(step) for step in range(APPENDS_PER_ROUND)]
    Journal.create(directory / "journal", at=AT, first=[event(0)])
    journal = Journal.open(directory / "journal", decode=codec.decode_record)
    raw = os.open(directory / "raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sqlite = sqlite3.connect(directory / "sqlite", isolation_level=None)
    sqlite.execute("PRAGMA journal_mode=WAL")
    sqlite.execute("PRAGMA synchronous=FULL")
    sqlite.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, line BLOB)")
    line = [found.data for found in lines(directory / "journal")][-1] + b"\n"

    def keepstep() -> None:
        for data in events:
            with journal.transaction() as transaction:
                transaction.append([data], at=AT)

    def bare() -> None:
        for _ in events:
            os.write(raw, line)
            os.fdatasync(raw)

    def database() -> None:
        for _ in events:
            sqlite.execute("INSERT INTO events (line) VALUES (?)", (line,))

    ways = {"keepstep": keepstep, "bare write + fdatasync": bare, "SQLite, WAL, FULL": database}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            speeds[name].append(per_second(APPENDS_PER_ROUND, way))
    journal.close()
    os.close(raw)
    sqlite.close()
    return [
        (
            f"append: {name}",
            statistics.median(speeds[name]),
            "appends/s",
            statistics.median(a / b for a, b in zip(speeds[name], speeds["bare write + fdatasync"], strict=True)),
        )
        for name in ways
    ]


def replays(directory: Path) -> list[Row]:
    path = directory / "replayed"
    Journal.create(path, at=AT, first=[event(0)])
    journal = Journal.open(path, decode=codec.decode_record, storage=Unsynced())
    for step in range(REPLAY_EVENTS):
        with journal.transaction() as transaction:
            transaction.append([event(step)], at=AT)
    journal.close()
    whole = [found.data for found in lines(path) if found.record is not None]
    decoder = msgspec.json.Decoder(codec.Record)

    def decode() -> None:
        for line in whole:
            decoder.decode(line)

    def replay() -> None:
        opened = Journal.open(path, decode=codec.decode_record)
        for _ in opened.read():
            pass
        opened.close()

    def fast_replay() -> None:
        opened = Journal.open(path, decode=decoder.decode)
        for _ in opened.read():
            pass
        opened.close()

    ways = {"keepstep": replay, "keepstep, bare decoder": fast_replay, "msgspec decoding alone": decode}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(5):
        for name, way in ways.items():
            speeds[name].append(per_second(len(whole), way))
    return [
        (
            f"replay: {name}",
            statistics.median(speeds[name]),
            "events/s",
            statistics.median(a / b for a, b in zip(speeds[name], speeds["msgspec decoding alone"], strict=True)),
        )
        for name in ways
    ]


def main() -> list[Row]:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as directory:
        rows = [*appends(Path(directory)), *replays(Path(directory))]
    for name, count, unit, share in rows:
        print(f"{name:<36} {count:>12,.0f} {unit:<10} {share:>5.2f}")
    return rows


if __name__ == "__main__":
    main()
