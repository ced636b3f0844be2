"""Benchmark the monitor on long histories: the first chart of 200,000 steps, and charts of a million.

The first chart reads the whole journal once; its peer is `json.loads` of the same lines. Later charts read memory;
their peer is `min` and `max` over a list with as many numbers.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench_journal import AT, Unsynced
from cli.commands.init import create_home
from cli.home.paths import Home
from cli.monitor.feed import Feed
from events.codec import Record, decode_record, encode
from events.kinds import StepReached
from journal import Journal
from projections.metrics import Metrics

STEPS = 200_000
MANY_STEPS = 1_000_000
POINTS = 1_000
ROUNDS = 7

Row = tuple[str, float, str, float]
"""Name, figure, unit, and ratio to the peer."""


def step(number: int) -> StepReached:
    """A step as a training run journals it; every thousandth has no loss."""
    return StepReached(
        job="3b" * 32,
        attempt=7,
        global_step=number,
        step=number,
        epoch=0,
        loss="NaN" if number % 1_000 == 0 else 1.9182736450 + math.sin(number),
        grad_norm=0.7182818284,
        learning_rate=0.00019732,
        tokens=4096,
        seconds=0.48213,
    )


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def first_chart(directory: Path) -> list[Row]:
    """Measure the way from a journal to its chart."""
    home: Home = create_home(directory / "home", model="nowhere")
    journal = Journal.open(home.journal, decode=decode_record, storage=Unsynced())
    for first in range(1, STEPS, 1_000):
        with journal.transaction() as transaction:
            transaction.append([encode(step(number)) for number in range(first, first + 1_000)], at=AT)
    journal.close()
    lines = [line for path in sorted(home.journal.glob("*.jsonl")) for line in path.read_bytes().splitlines()]

    def chart() -> None:
        feed = Feed(home)
        feed.catch_up()
        feed.chart(None, None, POINTS)

    def peer() -> None:
        for line in lines:
            json.loads(line)

    rounds = [(seconds(chart), seconds(peer)) for _ in range(ROUNDS)]
    ours = statistics.median(each for each, _ in rounds)
    return [("monitor: first chart of 200,000 steps", ours, "s", statistics.median(a / b for a, b in rounds))]


def later_charts() -> list[Row]:
    """Measure a chart of a million steps that are in memory."""
    metrics = Metrics()
    for number in range(1, MANY_STEPS + 1):
        metrics.observe(Record(seq=number, at=AT, durable=number, prev="", event=step(number), crc=""))
    numbers = [math.sin(number) for number in range(MANY_STEPS)]

    def peer() -> None:
        for _ in range(4):
            min(numbers)
            max(numbers)

    rounds = [(seconds(lambda: metrics.chart(points=POINTS)), seconds(peer)) for _ in range(ROUNDS)]
    ours = statistics.median(each for each, _ in rounds)
    return [("monitor: chart of 1,000,000 steps", ours * 1_000, "ms", statistics.median(a / b for a, b in rounds))]


def measure() -> list[Row]:
    """Run all measurements of this module."""
    with tempfile.TemporaryDirectory() as directory:
        return [*first_chart(Path(directory)), *later_charts()]


def main() -> None:
    """Print the measurements."""
    for name, figure, unit, ratio in measure():
        print(f"{name:<45} {figure:>10.2f} {unit:<4} {ratio:>6.2f}")


if __name__ == "__main__":
    main()
