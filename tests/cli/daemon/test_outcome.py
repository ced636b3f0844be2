"""The end of a run of the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from core import commands
from events import kinds
from events.codec import kind_of
from events.kinds import AnyEvent
from tests.crash.homes import state_of
from tests.waiting import eventually

ROOT = Path(__file__).parents[3]


@contextmanager
def daemon(home: Home, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A daemon in a separate process, with the fake worker."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.harness.daemon", str(home.root), "tests.harness.worker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def reached(home: Home, step: int) -> Callable[[], bool]:
    return lambda: load_state(home)[0].state.attempts.reached.step >= step


def test_a_closed_terminal_commits_first(
    home: Home, drop: Callable[..., Path], events: Callable[[], list[AnyEvent]]
) -> None:
    """SIGHUP, twice as a terminal sends it: the step is committed, and nothing was interrupted."""
    drop("a.jsonl", "ok wait ok ok")
    with daemon(home) as process:
        eventually(reached(home, 1))
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0
    assert state_of(home).head.global_step == 2
    assert state_of(home).daemon.status == "off"
    assert "attempt_interrupted" not in [kind_of(event) for event in events()]


def test_a_home_that_is_moved_ends_its_daemon(home: Home, drop: Callable[..., Path]) -> None:
    """It says so and leaves nothing at the old place; at the new one everything works."""
    drop("a.jsonl", "ok wait ok ok")
    with daemon(home) as process:
        eventually(reached(home, 1))
        moved = home.root.rename(home.root.with_name("elsewhere"))
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 1, said
        assert "the home was moved or removed while its daemon ran" in said
    time.sleep(0.5)  # its worker is gone, too
    assert not home.root.exists()
    with closing(EventStore.open(Home(moved))) as store:
        store.execute(commands.Pause())


def test_files_that_failed_for_good_are_named_and_are_exit_code_1(
    home: Home, drop: Callable[..., Path], events: Callable[[], list[AnyEvent]], monkeypatch: object
) -> None:
    """`run --until-idle` is what a script waits for. A file that was retried and trained is no failure."""
    for name in ("a.jsonl", "b.jsonl"):
        drop(name, f"fail {name}")
    drop("c.jsonl", "ok")
    with daemon(home, "--until-idle", "--retry-soon") as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "2 files failed and will not be tried again: a.jsonl, b.jsonl" in said
    assert len([event for event in events() if isinstance(event, kinds.JobFailed)]) == 2
    assert state_of(home).outcomes.counts.trained == 1
    with daemon(home, "--until-idle") as process:
        process.communicate(timeout=120)
    assert process.returncode == 0, "what failed in an earlier run is told there"
