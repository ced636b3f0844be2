"""What `keepstep status` says in one line, and what would change it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from msgspec.structs import replace

from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.output.terminal import ATTENTION
from cli.status.report import health, read_current, status_rows
from core import commands
from events import kinds
from events.kinds import EvaluationDone
from events.messages import Heartbeat
from projections.status import StatusView
from projections.status_view import status_view
from projections.trouble import TERMINAL_CLOSED
from tests.core.world import World, settings
from tests.projections.timeline import folded


def view(world: World) -> StatusView:
    """What the status file says."""
    shown = status_view(folded(world), seq=len(world.journal), crc="", heartbeat_at=0.0)
    shown = replace(shown, daemon=replace(shown.daemon, since="2026-11-22T03:00:00Z"))
    return replace(shown, troubles=tuple(replace(trouble, at="2026-11-22T03:00:00") for trouble in shown.troubles))


def full() -> World:
    """An attempt ended for want of room."""
    world = World()
    world.start()
    world.add(4)
    world.run_until(kinds.StepReached)
    world.runs_out()
    return world


def paused() -> World:
    """The same, and work is paused."""
    world = full()
    world.execute(commands.Pause())
    return world


def held() -> World:
    """The same, and a person is needed as well."""
    world = full()
    world.execute(commands.HoldWork(reason="the config is broken", advice="fix it"))
    return world


def stopped(situation: Callable[[], World]) -> Callable[[], World]:
    """The daemon has left in good order."""

    def left() -> World:
        world = situation()
        world.execute(commands.StopDaemon(reason="asked to stop"))
        return world

    return left


SPACE = "→ free disk space: 8.4 MB must be free; "


@pytest.mark.parametrize(
    ("situation", "alive", "line", "advice"),
    [
        (full, True, "waiting for disk space: the disk is full", [f"{SPACE}then training continues"]),
        (
            paused,
            True,
            "paused, and waiting for disk space: the disk is full",
            [f"{SPACE}then `keepstep resume`"],
        ),
        (
            held,
            True,
            "waiting for you: the config is broken",
            ["→ fix it", f"{SPACE}then `keepstep resume`"],
        ),
        (
            stopped(full),
            False,
            "not running, and waiting for disk space: the disk is full",
            [f"{SPACE}then `keepstep run`"],
        ),
        (
            stopped(paused),
            False,
            "not running, and waiting for disk space: the disk is full",
            [f"{SPACE}then `keepstep resume` and `keepstep run`"],
        ),
        (
            full,
            False,
            "not running: the daemon (pid 7) died; `keepstep run` continues after step 0",
            [f"{SPACE}then `keepstep run`"],
        ),
    ],
)
def test_full_disk_is_reported_with_what_to_do(
    situation: Callable[[], World], alive: bool, line: str, advice: list[str]
) -> None:
    """With a living daemon that is room alone; otherwise room, and a command."""
    shown = view(situation())
    assert health(shown, alive=alive) == line
    first, *rest = status_rows(shown, alive=alive)
    since = ", since 2026-11-22" if alive else ""
    assert first.text.startswith(line + since)
    assert first.style == f"bold {ATTENTION}"
    assert [row.text for row in rest[: len(advice)]] == advice


def test_with_room_again_nothing_of_it_is_left_but_the_trouble() -> None:
    """The last line says that it was so."""
    world = full()
    world.execute(commands.ReportDiskFree(free_bytes=2**30))
    shown = view(world)
    assert health(shown, alive=True) == "preparing file-1.jsonl"
    rows = status_rows(shown, alive=True)
    assert not [row for row in rows if row.text.startswith("→")]
    assert rows[-1].text.endswith(": the disk is full")


def test_how_far_a_file_is_prepared_is_said_while_it_is() -> None:
    """As the worker of this very attempt said last."""
    world = World()
    world.start()
    world.add(4)
    world.run_until(kinds.AttemptStarted)

    def said(**other: Any) -> str:
        received = replace(Heartbeat(attempt=1, phase="prepare", done=12_000, total=40_000), **other)
        return health(status_view(folded(world), seq=1, crc="", heartbeat_at=0.0, received=received), alive=True)

    assert said() == "preparing file-1.jsonl: 12,000 of about 40,000 rows"
    assert said(attempt=7) == said(phase="load") == "preparing file-1.jsonl"


def test_an_evaluation_says_so_and_how_far_it_is() -> None:
    """It may take longer than a hundred steps, and the step that is shown does not change meanwhile."""
    world = World()
    world.start()
    world.config = settings(held_out=True)
    world.add(4)
    world.run_until(kinds.StepReached, 2)

    def said(**changes: Any) -> str:
        received = replace(Heartbeat(attempt=1, phase="evaluate", done=96, total=2_000), **changes)
        return health(status_view(folded(world), seq=1, crc="", heartbeat_at=0.0, received=received), alive=True)

    assert said() == "evaluating file-1.jsonl: 96 of 2,000 held-out rows"
    assert said(attempt=7) == said(phase="step") == "training file-1.jsonl"


def test_validation_loss_is_shown_next_to_the_training_loss() -> None:
    """Also after the end of its job, until another is evaluated; a rising loss is yellow."""
    world = World()
    world.config = settings(held_out=True)
    world.validation = {0: 1.0, 2: 0.5, 4: 2.0}
    world.start()
    world.add(4)
    lines = []
    for step in (0, 2, 4):
        world.run_until(EvaluationDone)
        (row,) = [row for row in status_rows(view(world), alive=True) if row.name == "validation"]
        assert row.text.endswith(f"on 4 rows, after step {step} of file-1.jsonl")
        lines.append((row.text.partition(" (")[0], "gap +" in row.text, row.style))
    assert lines == [
        ("loss 1.0000 on 4 rows, after step 0 of file-1.jsonl", False, ""),
        ("loss 0.5000", True, ""),
        ("loss 2.0000", True, ATTENTION),
    ]
    world.run()
    assert view(world).job is None
    assert [row.style for row in status_rows(view(world), alive=True) if row.name == "validation"] == [ATTENTION]


def test_a_loss_that_is_no_number_is_shown_as_nan() -> None:
    world = World()
    world.config = settings(held_out=True)
    world.validation = {0: "NaN"}
    world.start()
    world.add(4)
    world.run_until(EvaluationDone)
    (row,) = [row for row in status_rows(view(world), alive=True) if row.name == "validation"]
    assert row.text.startswith("loss NaN on 4 rows")


def test_an_unfinished_job_is_named_when_nothing_runs() -> None:
    """With how far it is, and the command that continues it."""
    world = World()
    world.start()
    world.add(4)
    world.run_until(kinds.CheckpointCommitted)
    world.execute(commands.Stop(alive=True))
    world.run()
    shown = view(world)
    assert health(shown, alive=False) == "not running; `keepstep run` continues file-1.jsonl"
    shown = replace(shown, daemon=replace(shown.daemon, stop_reason=TERMINAL_CLOSED))
    assert health(shown, alive=False).startswith(
        f"not running: {TERMINAL_CLOSED} and the daemon stopped after a commit; `keepstep run` continues file-1.jsonl"
    )
    rows = {row.name: row.text for row in status_rows(shown, alive=False)}
    assert rows["unfinished"].startswith("file-1.jsonl, ")
    assert rows["unfinished"].endswith(" of 4 is committed")


def test_a_status_file_that_lacks_the_last_record_is_not_shown(home: Home) -> None:
    """Its writer was killed after the append."""
    with closing(EventStore.open(home)) as store:
        store.execute(commands.StartDaemon(pid=1, process_started_at=1.0, boot_id="", host="", keepstep=""))
        store.write_status()
        assert read_current(home)[0].hold is None
        written = home.status.read_bytes()
        store.execute(commands.HoldWork(reason="the config is broken", advice="fix it"))
    home.status.write_bytes(written)
    hold = read_current(home)[0].hold
    assert hold is not None
    assert hold.reason == "the config is broken"
