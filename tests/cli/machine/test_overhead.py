"""What the daemon costs: all of its time is counted, once, and said once a day."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.machine.clock import Clock
from cli.machine.overhead import DAY_S, FIRST_AFTER_S, OTHER_THREADS, OverheadMeter
from cli.status.report import status_rows
from core.commands import RecordOverhead
from events.kinds import OverheadMeasured
from projections.status_view import status_view


class Hand(Clock):
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.wall = self.used = self.others = 0.0

    def monotonic(self) -> float:
        return self.wall

    def cpu(self) -> float:
        return self.used

    def process_cpu(self) -> float:
        return self.used + self.others


def test_parts_are_taken_out_of_laps_and_nothing_is_counted_twice() -> None:
    """A part in a part, too."""
    clock = Hand()
    meter = OverheadMeter(clock)
    clock.used += 1
    with meter.part("the journal"):
        clock.used += 2
        with meter.part("views"):
            clock.used += 4
        clock.used += 8
    clock.used += 16
    meter.lap("the inbox")
    clock.used += 32
    meter.lap("orders")
    assert meter.parts == {"the journal": 10, "views": 4, "the inbox": 17, "orders": 32}
    assert sum(meter.parts.values()) == clock.used


def test_it_is_due_after_the_first_training_and_then_once_a_day() -> None:
    """And then the count starts again."""
    clock = Hand()
    meter = OverheadMeter(clock)
    clock.wall, clock.used, clock.others = FIRST_AFTER_S - 1, 3.0, 1.0
    meter.lap("orders")
    meter.end_turn(training=True)
    assert meter.take_report() is None
    clock.wall += 1
    meter.end_turn(training=True)
    assert meter.take_report() == RecordOverhead(
        wall_s=FIRST_AFTER_S,
        cpu_s=4.0,
        training_s=FIRST_AFTER_S,
        training_cpu_s=4.0,
        parts={"orders": 3.0, OTHER_THREADS: 1.0},
    )
    clock.wall += DAY_S - 1
    meter.end_turn(training=True)
    assert meter.take_report() is None
    clock.wall += 1
    clock.used += 5
    meter.end_turn(training=False)
    cost = meter.take_report()
    assert cost is not None
    assert (cost.wall_s, cost.cpu_s, cost.training_s, cost.training_cpu_s) == (DAY_S, 5.0, DAY_S - 1, 0.0)
    assert meter.take_report() is None


def test_what_it_costs_is_journaled_and_shown(home: Home) -> None:
    """As a share of training time, with what costs most."""
    store = EventStore.open(home)
    store.execute(
        RecordOverhead(wall_s=86400.0, cpu_s=90.0, training_s=40000.0, training_cpu_s=80.0, parts={"a": 1.0, "b": 89.0})
    )
    view = status_view(store.folded, seq=1, crc="", heartbeat_at=0.0)
    (row,) = [row for row in status_rows(view, alive=True) if row.name == "overhead"]
    assert row.text == "0.20% of training time (90.0 CPU seconds in 24 h 0 min; most: b)"
    idle = store.folded.progress.watching
    assert isinstance(idle, OverheadMeasured)
    progress = replace(store.folded.progress, watching=replace(idle, training_s=0.0))
    view = status_view(replace(store.folded, progress=progress), seq=1, crc="", heartbeat_at=0.0)
    assert any("nothing was trained" in row.text for row in status_rows(view, alive=True))
    store.close()


def test_the_daemon_counts_all_that_it_does(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], monkeypatch: object
) -> None:
    """Every lap of its loop has a name."""
    made: list[OverheadMeter] = []
    beginning = OverheadMeter.__init__

    def remembered(self: OverheadMeter, clock: Clock) -> None:
        beginning(self, clock)
        made.append(self)

    monkeypatch.setattr(OverheadMeter, "__init__", remembered)  # type: ignore[attr-defined]
    drop("a.jsonl", "ok ok ok")
    run()
    (meter,) = made
    assert {"the journal", "views", "the inbox", "effects and messages", "schedule and resources"} <= set(meter.parts)
    assert all(spent >= 0.0 for spent in meter.parts.values())
