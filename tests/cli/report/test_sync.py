"""A tool is brought up to date from the journal, whatever happened to the journal, the tool or the process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from cli.home.paths import Home
from cli.report.progress import Sent, progress_file, read_progress, rebuild_file
from cli.report.sync import LIMIT_S, Sync
from cli.report.writer import OverwritingWriter, Target, Writer
from journal import durable
from projections.metrics import Group, Point
from tests.harness.metrics_home import add_steps, append, committed, evaluation, metrics_home, step


class Killed(BaseException):
    """The process ends here."""


class AppendOnly(Writer):
    """A tool that cannot remove a point, as W&B. It is in memory; the runs by id survive this object."""

    runs: ClassVar[dict[str, dict[Group, list[tuple[int, float]]]]] = {}
    dies_after: int | None = None
    """Points until the process is killed in the middle of a write."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.run = self.runs.setdefault(target.id, {"train": [], "validation": []})

    place = "memory"

    def write(self, group: Group, points: Sequence[Point]) -> None:
        for point in points:
            if AppendOnly.dies_after is not None:
                if AppendOnly.dies_after == 0:
                    raise Killed
                AppendOnly.dies_after -= 1
            self.run[group].append((point.global_step, point.values.get("loss", -1.0)))


class Memory(AppendOnly, OverwritingWriter):
    """A tool that overwrites."""

    def last_step(self, group: Group) -> int:
        return self.run[group][-1][0] if self.run[group] else -1

    def cut(self, group: Group, step: int) -> None:
        self.run[group] = [point for point in self.run[group] if point[0] < step]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home without steps, and tools without runs."""
    AppendOnly.runs, AppendOnly.dies_after = {}, None
    return metrics_home(tmp_path)


def sync(home: Home, tool: type[Writer] = Memory) -> Sync:
    """A new process that has caught up."""
    started = Sync(home, "tensorboard", "p", tool)
    started.catch_up()
    return started


def run(number: int = 0) -> dict[Group, list[tuple[int, float]]]:
    return list(AppendOnly.runs.values())[number]


def losses(group: Group = "train", number: int = 0) -> list[tuple[int, float]]:
    return run(number)[group]


def test_each_step_arrives_once(home: Home) -> None:
    add_steps(home, 1, 3, loss=1.0)
    process = sync(home)
    add_steps(home, 4, 5, loss=1.0)
    process.catch_up()
    process.catch_up()
    assert losses() == [(number, 1.0) for number in range(1, 6)]
    sync(home)
    assert losses() == [(number, 1.0) for number in range(1, 6)]


def test_a_step_that_ran_again_overwrites_what_followed(home: Home) -> None:
    add_steps(home, 1, 5, loss=9.0)
    append(home, [evaluation(5, 9.0)])
    process = sync(home)
    add_steps(home, 3, 4, loss=1.0)
    process.catch_up()
    assert losses() == [(1, 9.0), (2, 9.0), (3, 1.0), (4, 1.0)]
    assert losses("validation") == [], "it belongs to a step that is no longer true"


def test_after_a_rollback_the_cursor_stands_at_the_new_end(home: Home) -> None:
    """A cut is not repeated at each look at the journal."""
    add_steps(home, 1, 5, loss=9.0)
    append(home, [evaluation(5, 9.0)])
    process = sync(home)
    add_steps(home, 3, 3, loss=1.0)
    process.catch_up()
    sent = read_progress(home, "tensorboard").sent
    assert (sent["train"].step, sent["validation"]) == (3, Sent(0, -1))


@pytest.mark.parametrize("after", range(7))
def test_a_kill_in_a_write_neither_loses_nor_repeats_a_point(home: Home, after: int) -> None:
    add_steps(home, 1, 3, loss=9.0)
    sync(home)
    add_steps(home, 2, 6, loss=1.0)
    append(home, [evaluation(6, 0.5)])
    AppendOnly.dies_after = after
    try:
        sync(home)
    except Killed:
        assert after < 6
    AppendOnly.dies_after = None
    sync(home)
    assert losses() == [(1, 9.0), *((number, 1.0) for number in range(2, 7))]
    assert losses("validation") == [(6, 0.5)]


def test_a_lost_cursor_sends_everything_again_once(home: Home) -> None:
    add_steps(home, 1, 5, loss=1.0)
    sync(home)
    progress_file(home, "tensorboard").unlink()
    sync(home)
    assert losses() == [(number, 1.0) for number in range(1, 6)]


def test_points_that_the_tool_lost_are_sent_again(home: Home) -> None:
    add_steps(home, 1, 5, loss=1.0)
    sync(home)
    del losses()[2:]
    sync(home)
    assert losses() == [(number, 1.0) for number in range(1, 6)]


def test_a_rebuild_replaces_what_is_wrong(home: Home) -> None:
    add_steps(home, 1, 3, loss=1.0)
    process = sync(home)
    losses()[1] = (2, 77.0)
    durable.write_atomically(rebuild_file(home, "tensorboard"), b"", sync=False)
    process.catch_up()
    assert losses() == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert not rebuild_file(home, "tensorboard").exists()


def test_a_tool_that_cannot_overwrite_gets_committed_steps(home: Home) -> None:
    add_steps(home, 1, 5, loss=9.0)
    append(home, [committed(3)])
    process = sync(home, AppendOnly)
    assert losses() == [(1, 9.0), (2, 9.0), (3, 9.0)]
    add_steps(home, 4, 6, loss=1.0)  # a crash: the steps after the commit run again
    process.catch_up()
    append(home, [committed(6)])
    process.catch_up()
    assert [step for step, _ in losses()] == [1, 2, 3, 4, 5, 6]
    assert len(AppendOnly.runs) == 1


def test_after_a_rollback_a_tool_that_cannot_overwrite_gets_another_run(home: Home) -> None:
    append(home, [*(step(number, 9.0) for number in range(1, 6)), committed(5)])
    process = sync(home, AppendOnly)
    append(home, [step(3, 1.0)])
    process.catch_up()
    append(home, [step(4, 1.0), committed(4)])
    process.catch_up()
    assert len(losses()) == 5
    assert losses(number=1) == [(1, 9.0), (2, 9.0), (3, 1.0), (4, 1.0)]
    assert list(AppendOnly.runs)[1].endswith("-2")
    sync(home, AppendOnly)
    assert len(AppendOnly.runs) == 2


def test_the_run_keeps_its_name_when_the_home_moves(home: Home, tmp_path: Path) -> None:
    add_steps(home, 1, 1)
    sync(home)
    moved = Home(home.root.rename(tmp_path / "elsewhere"))
    sync(moved)
    assert read_progress(moved, "tensorboard").run == "home"
    assert len(AppendOnly.runs) == 1


def test_a_long_history_is_sent_in_parts_and_continues_after_a_kill(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.report.sync.BATCH", 4)
    add_steps(home, 1, 10, loss=1.0)
    AppendOnly.dies_after = 6
    with pytest.raises(Killed):
        sync(home)
    assert read_progress(home, "tensorboard").sent["train"].step == 4
    AppendOnly.dies_after = None
    sync(home)
    assert losses() == [(number, 1.0) for number in range(1, 11)]


def test_each_call_of_the_tool_has_a_limit_and_reading_the_journal_has_none(home: Home) -> None:
    add_steps(home, 1, 3)
    allowed: list[float] = []
    Sync(home, "tensorboard", "p", Memory, allowed.append).catch_up()
    assert allowed == [math.inf, LIMIT_S, LIMIT_S, math.inf]
