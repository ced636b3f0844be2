"""`keepstep stop --now`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.commands.force_stop import daemon_process, stop_now
from cli.errors import UserError
from cli.home.identity import DaemonLock, daemon_is_alive, this_process
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from tests.cli.supervision.test_watchdog import ROOT, daemon
from tests.waiting import eventually

Drop = Callable[..., Path]


def ended_by_command(home: Home) -> str:
    """In a process that is not the daemon's parent, as a person's is not."""
    command = [sys.executable, "-P", "-m", "cli", "stop", "--now", "--home", str(home.root)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_it_ends_at_once_and_what_was_committed_is_kept(home: Home, drop: Drop) -> None:
    """In a step that never ends; the next daemon continues after the commit."""
    drop("a.jsonl", "ok ok ok ok silent")
    with daemon(home) as process:
        eventually(lambda: load_state(home)[0].state.attempts.reached.step >= 4)
        began = time.monotonic()
        assert "stopped; committed steps are kept" in ended_by_command(home)
        assert time.monotonic() - began < 20
        assert process.wait(5) == 130
    assert not daemon_is_alive(home)
    assert load_state(home)[0].state.head.global_step == 3


def test_a_daemon_that_has_left_is_not_ended_by_one_signal_more(home: Home, drop: Drop) -> None:
    """While its process ends: a supervisor that waits for it would see a crash."""
    drop("a.jsonl", "ok")
    late = f"""
import os, signal, sys
from pathlib import Path
from cli.home.paths import Home
from cli.supervision.watchdog import run_daemon
code = run_daemon(Home(Path({str(home.root)!r})), until_idle=True, write=print, worker_module="tests.harness.worker")
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGINT)
sys.exit(code)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-P", "-c", late], env=environment, check=False, timeout=60).returncode == 0
    assert load_state(home)[0].state.outcomes.counts.trained == 1


def test_one_that_does_not_answer_is_killed(
    home: Home,
) -> None:
    """Stopped, or stuck: its signals are never handled."""
    with daemon(home) as process:
        eventually(lambda: daemon_is_alive(home))
        process.send_signal(signal.SIGSTOP)
        assert "the daemon did not react and was killed" in ended_by_command(home)
        assert process.wait(5) == -signal.SIGKILL


def test_no_other_process_is_ever_ended(home: Home) -> None:
    """Nobody holds the lock, whatever number stands in it; or its holder does not have that number."""
    home.daemon_lock.write_text(f'{{"pid":{os.getppid()},"process_started_at":1.0,"boot_id":"","host":""}}', "utf-8")
    with pytest.raises(UserError, match="no daemon runs"):
        stop_now(home.root)
    assert daemon_process(home) is None
    lock = DaemonLock(home)
    lock.take(this_process())
    found = daemon_process(home)
    assert found is not None
    assert found.pid == os.getpid()
    home.daemon_lock.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="its process cannot be found"):
        stop_now(home.root)
    lock.release()
