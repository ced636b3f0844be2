"""Benchmark `keepstep status` against `python -c "import typer"`: whole processes, into a pipe and on a terminal.

The journal is short, or long (only the tail after the snapshot counts), or there are many jobs in the queue.
"""

from __future__ import annotations

import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from cli.commands.init import create_home
from cli.home.event_store import EventStore
from cli.home.paths import Home
from core import commands

ROUNDS = 15
STATUS = [sys.executable, "-c", "from cli.main import main; main()", "status"]
TYPER = [sys.executable, "-c", "import typer"]

Row = tuple[str, float, str, float]


def environment(home: Home) -> dict[str, str]:
    """The environment of a command. Modules are compiled once, as an installation does it."""
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "KEEPSTEP_HOME": str(home.root),
    }


def piped(command: list[str], home: Home) -> float:
    """Return the seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment(home))
    return time.perf_counter() - began


def on_a_terminal(command: list[str], home: Home) -> float:
    """Return the seconds with output to a terminal, so that rich draws."""
    ours, theirs = pty.openpty()
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=theirs, env=environment(home))
    seconds = time.perf_counter() - began
    os.close(theirs)
    os.close(ours)
    return seconds


def with_jobs(home: Home, count: int) -> None:
    """Put `count` jobs into the queue, without files."""
    with closing(EventStore.open(home)) as store:
        for number in range(count):
            store.execute(
                commands.AddFile(
                    job=f"{number:064x}", name=f"file-{number}.jsonl", size_bytes=1, priority="normal", known=False
                )
            )
        store.save_snapshot()


def measure(name: str, home: Home, way: Callable[[list[str], Home], float]) -> Row:
    """Return the median milliseconds, and the median of the ratios of pairs."""
    pairs = [(way(STATUS, home), piped(TYPER, home)) for _ in range(ROUNDS)][1:]
    return (
        f"status, {name}",
        statistics.median(ours for ours, _ in pairs) * 1000,
        "ms",
        statistics.median(ours / theirs for ours, theirs in pairs),
    )


def main() -> list[Row]:
    """Rows of (name, figure, unit, ratio to `import typer`)."""
    rows = []
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as directory:
        for jobs in (0, 1_000, 10_000):
            home = create_home(Path(directory) / str(jobs), model="none")
            with_jobs(home, jobs)
            rows.append(measure(f"{jobs} jobs waiting, into a pipe", home, piped))
            rows.append(measure(f"{jobs} jobs waiting, on a terminal", home, on_a_terminal))
    for name, count, unit, share in rows:
        print(f"{name:<44} {count:>8.0f} {unit:<8} {share:>5.2f} of `import typer`")
    return rows


if __name__ == "__main__":
    main()
