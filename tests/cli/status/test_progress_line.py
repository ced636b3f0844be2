"""Since when, until when, and what is waited for."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from cli.status.progress_line import Timing, memory_health, timing, timing_text
from cli.status.report import health
from core import commands
from core.structures.situations import MemoryShortage
from events import kinds
from events.settings import MemorySettings
from projections.status import StatusView
from projections.status_view import status_view
from tests.core.world import World
from tests.projections.timeline import folded


def view(world: World) -> StatusView:
    """What the status file says, its daemon busy since a minute."""
    shown = status_view(folded(world), seq=1, crc="", heartbeat_at=0.0)
    since = datetime.fromtimestamp(time.time() - 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return replace(shown, daemon=replace(shown.daemon, since=since))


def world(*steps: int) -> World:
    made = World()
    made.start()
    for count in steps:
        made.add(count)
    return made


def test_in_the_middle_of_a_file_it_is_said_when_it_and_all_should_be_done() -> None:
    """By the pace of the last steps."""
    made = world(6, 6)
    made.run_until(kinds.StepReached, 2)
    found = timing(view(made), alive=True)
    assert found.since == pytest.approx(time.time() - 60, abs=2)
    assert found.file_done_at is not None
    assert found.all_done_at is not None
    assert time.time() < found.file_done_at < found.all_done_at
    assert found.waits_for is None
    line = timing_text(found)
    assert line.startswith("since ")
    assert "(1 min" in line
    assert "this file ends about " in line
    assert "all files " in line
    gone = timing(view(made), alive=False)
    assert (gone.since, gone.file_done_at, gone.waits_for) == (None, None, "daemon")
    assert timing_text(gone) == ""


def memory_low(made: World) -> None:
    made.execute(commands.MeasureMemory(total_bytes=100, available_bytes=1, worker_bytes=0, limits=MemorySettings()))


@pytest.mark.parametrize(
    ("does", "waits_for"),
    [
        (lambda made: made.run(), "files"),
        (lambda made: made.execute(commands.Pause()), "person"),
        (lambda made: made.execute(commands.HoldWork(reason="r", advice="a")), "person"),
        (lambda made: made.runs_out(), "disk"),
        (memory_low, "memory"),
        (lambda made: (made.run_until(kinds.StepReached), made.lose_worker()), "retry"),
        (lambda made: made.run_until(kinds.StepReached), None),
    ],
)
def test_what_is_waited_for_has_a_name(does: object, waits_for: str | None) -> None:
    """For scripts, which would have to read the sentence."""
    made = world(2)
    does(made)  # type: ignore[operator]
    assert timing(view(made), alive=True).waits_for == waits_for


def test_a_time_of_another_day_has_its_date() -> None:
    """Today's does not."""
    far = Timing(since=1.0, file_done_at=None, all_done_at=None, waits_for=None, retry_at=None)
    assert timing_text(far).startswith("since 1970-01-0")


def test_want_of_memory_is_said_with_what_runs_meanwhile() -> None:
    """During the grace period, and after it."""
    short = MemoryShortage(total_bytes=10**11, available_bytes=10**10, worker_bytes=10**10, since=0.0, grace_s=1.0)
    assert memory_health(short, "a.jsonl") == (
        "waiting for memory: other processes use 80.0 of 100.0 GB, the worker 10.0 GB; "
        "a.jsonl pauses after its next commit until memory is free"
    )
    made = world(4)
    memory_low(made)
    assert health(view(made), alive=True).endswith("no job starts until memory is free")
