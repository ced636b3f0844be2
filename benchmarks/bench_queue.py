"""Benchmark commands with 10, 1,000 and 100,000 waiting jobs, and after 100,000 finished ones: whole processes.

And an inbox into which ten thousand files are dropped at once: what each costs, and how long the daemon is away for it.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from cli.commands.init import create_home
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.inbox.intake import Intake
from cli.inbox.watcher import Inbox
from cli.machine.clock import timestamp
from events.codec import encode
from events.kinds import AnyEvent, FileEnqueued, JobSkipped
from projections.fold import fold

FEW, SOME, MANY = 10, 1_000, 100_000
ROUNDS = 9
FILES = (100, 10_000)
TOGETHER = 1_000
"""Records in a transaction, so that a long history takes seconds to write."""

KEEPSTEP = [sys.executable, "-c", "from cli.main import main; main()"]

Row = tuple[str, float, str, float]


def job_of(number: int) -> str:
    """Return the id of the n-th file, a hash."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def append(store: EventStore, events: Iterable[AnyEvent]) -> None:
    """Journal and fold events, many in a transaction."""
    batch: list[AnyEvent] = []
    for event in (*events, None):
        if event is not None:
            batch.append(event)
        if len(batch) >= TOGETHER or (event is None and batch):
            with store.journal.transaction() as transaction:
                for record in transaction.append([encode(each) for each in batch], at=timestamp(time.time())):
                    store.folded = fold(store.folded, record)
            batch = []


def made(directory: Path, *, waiting: int, finished: int = 0) -> Home:
    """Make a home with this many waiting and finished jobs."""
    home = create_home(directory, model="none")
    with closing(EventStore.open(home)) as store:
        append(
            store,
            (each for number in range(finished) for each in (_enqueued(number), JobSkipped(job=job_of(number)))),
        )
        append(store, (_enqueued(finished + number) for number in range(waiting)))
        store.save_snapshot()
        store.write_status()
    return home


def _enqueued(number: int) -> FileEnqueued:
    return FileEnqueued(
        job=job_of(number), name=f"night-{number}.jsonl", size_bytes=1_000_000, priority="normal", retrain=False
    )


def took(home: Home, *arguments: str) -> float:
    """Return the milliseconds that a command takes."""
    began = time.perf_counter()
    subprocess.run(
        [*KEEPSTEP, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "KEEPSTEP_HOME": str(home.root)},
    )
    return (time.perf_counter() - began) * 1000


def commands(home: Home, number: int, last: int) -> dict[str, Callable[[], float]]:
    """Return the commands of the n-th round; `last` is a waiting job."""
    new = home.root.parent / f"{home.root.name}-{number}.jsonl"
    new.write_text(f"{home.root.name} {number}\n", encoding="utf-8")
    on = number % 2 == 0
    return {
        "add": lambda: took(home, "add", str(new)),
        "status": lambda: took(home, "status"),
        "queue": lambda: took(home, "queue"),
        "pause, resume": lambda: took(home, "pause" if on else "resume"),
        "queue hold, release": lambda: took(home, "queue", "hold" if on else "release", job_of(last)),
    }


def measure_commands(directory: Path) -> list[Row]:
    """Return the median milliseconds, and the median of the ratios to ten jobs in the same round."""
    homes = {
        f"{FEW} waiting": (made(directory / "few", waiting=FEW), FEW - 1),
        f"{SOME:,} waiting": (made(directory / "some", waiting=SOME), SOME - 1),
        f"{MANY:,} waiting": (made(directory / "many", waiting=MANY), MANY - 1),
        f"{MANY:,} finished, {FEW} waiting": (made(directory / "old", waiting=FEW, finished=MANY), MANY + FEW - 1),
    }
    os.sync()  # so that the measurement does not wait for earlier writes
    figures: dict[tuple[str, str], list[float]] = {}
    for number in range(ROUNDS):
        for name, (home, last) in homes.items():
            for what, run in commands(home, number, last).items():
                figures.setdefault((what, name), []).append(run())
    rows = []
    for (what, name), times in figures.items():
        few = figures[what, f"{FEW} waiting"]
        ratio = statistics.median(ours / theirs for ours, theirs in zip(times[1:], few[1:], strict=True))
        rows.append((f"{what}, {name}", statistics.median(times[1:]), "ms", ratio))
    return sorted(rows)


def measure_inbox(directory: Path) -> list[Row]:
    """Return files per second and their ratio to a hundred files; the longest turn and its ratio to one second."""
    rows, rate = [], {}
    for count in FILES:
        home = create_home(directory / f"inbox-{count}", model="none")
        for number in range(count):
            path = home.inbox / f"{number:06}.jsonl"
            path.write_text(f"{number}\n", encoding="utf-8")
            os.utime(path, (1.0, 1.0))
        taking, turns = Intake(home, Inbox(home), lambda _: None), []
        with closing(EventStore.open(home)) as store:
            while taking.has_more or not taking.has_scanned:
                began = time.perf_counter()
                for _ in taking.accept_some(store):
                    pass
                turns.append(time.perf_counter() - began)
        rate[count] = count / sum(turns)
        rows.append((f"{count:,} files dropped at once", rate[count], "files/s", rate[count] / rate[FILES[0]]))
        rows.append((f"{count:,} files dropped at once, longest turn", max(turns) * 1000, "ms", max(turns)))
    return rows


def main() -> list[Row]:
    """Rows of (name, figure, unit, ratio to ten jobs)."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as directory:
        rows = measure_inbox(Path(directory)) + measure_commands(Path(directory))
    for name, count, unit, ratio in rows:
        print(f"{name:<52} {count:>8.0f} {unit:<8} {ratio:>5.2f}")
    return rows


if __name__ == "__main__":
    main()
