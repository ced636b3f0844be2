"""The bar and the summary of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.output.run_screen import CLEAR_LINE, RunScreen
from core import commands

ROOT = Path(__file__).parents[3]


@pytest.fixture
def screen_of(home: Home, monkeypatch: pytest.MonkeyPatch) -> Callable[[RunScreen], RunScreen]:
    """Runs the daemon with the fake worker until idle, on this screen."""
    from cli.daemon.loop import Daemon
    from cli.daemon.ports import RealPorts

    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(screen: RunScreen) -> RunScreen:
        ports = RealPorts(home, "tests.harness.worker")
        Daemon(home, until_idle=True, write=screen.write, ports=ports, screen=screen).run()
        screen.close()
        return screen

    return run


def test_a_summary_names_what_was_trained_and_what_comes_next(
    drop: Callable[..., Path], screen_of: Callable[[RunScreen], RunScreen], capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps are lines into a pipe, and there are no control characters."""
    drop("a.jsonl", "ok ok ok")
    drop("bad.jsonl", "reject")
    summary = screen_of(RunScreen()).summary()
    assert "  a.jsonl: 3 steps, loss 0." in summary
    assert " → 0." in summary
    assert "checkpoint  step-00000003-attempt-" in summary
    assert "`keepstep consolidate`" in summary
    shown = capsys.readouterr().out
    assert "step 3/3  loss" in shown
    assert "\x1b" not in shown


def test_a_summary_says_what_to_do_about_a_held_version(
    home: Home, drop: Callable[..., Path], screen_of: Callable[[RunScreen], RunScreen]
) -> None:
    """No other version is made of the same weights."""
    config = home.config.read_text(encoding="utf-8")
    home.config.write_text(config.replace('gate = "warn"', 'gate = "hold"'), encoding="utf-8")
    drop("a.jsonl", "ok ok ok")
    screen_of(RunScreen())
    with closing(EventStore.open(home)) as store:
        store.execute(commands.RequestConsolidation(description=""))
    summary = screen_of(RunScreen()).summary()
    assert "version     versions/v001 (held)" in summary
    assert "next        `keepstep versions show v001` says why it is held" in summary
    assert "keepstep consolidate" not in summary


def test_a_run_without_files_says_how_to_add_some(screen_of: Callable[[RunScreen], RunScreen]) -> None:
    assert screen_of(RunScreen()).summary() == "next        nothing waits: `keepstep add FILE`, then `keepstep run`"


def test_a_daemon_that_did_not_start_has_no_summary() -> None:
    assert RunScreen().summary() == ""


def test_steps_are_on_the_bar_of_a_terminal(
    drop: Callable[..., Path],
    screen_of: Callable[[RunScreen], RunScreen],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bar has the expected time and the loss, fits the terminal, and is gone at the end."""
    monkeypatch.setenv("COLUMNS", "80")
    screen = RunScreen()
    screen.is_live = True
    drop("a.jsonl", "ok ok ok")
    screen_of(screen)
    shown = capsys.readouterr().out
    bars = [part.split("\n")[0] for part in shown.split(CLEAR_LINE) if "█" in part]
    assert any("step 3/3" in each and "left" in each and "loss 0." in each for each in bars)
    assert max(map(len, bars)) < 80
    assert not [line for line in shown.split("\n") if line[8:].startswith("  step ")]
    assert "█" not in shown.rpartition(CLEAR_LINE)[2]
    assert sys.stdout is not None
