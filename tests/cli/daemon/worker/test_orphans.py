"""Orphans are found by their command line, and no other process is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cli.daemon.worker.orphans import end_orphans, is_worker_of
from cli.home.paths import Home
from events.kinds import AnyEvent, OrphanEnded

SOCKET = "worker-0123abcd.sock"
SLEEPER = "import time\nprint('up', flush=True)\ntime.sleep(60)"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes that do nothing, with these words on their command line; the first line that each says."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*words: str, code: str = SLEEPER) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def said(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    ("words", "is_one"),
    [
        ("-m gpu.worker --home {home} --socket {home}/run/worker-0123abcd.sock", True),
        ("-m gpu.worker --home {home}/../home --socket {home}/run/worker-0123abcd.sock", True),
        ("-m gpu.worker --home {other} --socket {other}/run/worker-0123abcd.sock", False),
        ("-m gpu.worker --home {home} --socket {other}/run/worker-0123abcd.sock", False),
        ("-m gpu.worker --home {home} --socket {home}/run/mine.sock", False),
        ("-m gpu.worker --home {home}", False),
        ("-m gpu.worker --home", False),
        ("-m their.worker --home {home} --socket {home}/run/worker-0123abcd.sock", False),
        ("vi {home}/run/worker-0123abcd.sock", False),
        ("gpu.worker", False),
        ("", False),
    ],
)
def test_a_worker_of_this_home(home: Home, tmp_path: Path, words: str, is_one: bool) -> None:
    """Its module, its home, and a socket that only the home's daemons name."""
    line = words.format(home=home.root, other=tmp_path / "other").split()
    assert is_worker_of(home.root, line) is is_one


@pytest.mark.skipif(sys.platform != "linux", reason="command lines of others")
def test_a_leftover_is_ended_with_its_children_and_others_are_let_be(
    home: Home, tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """What it was is told."""
    left = started("-m", "gpu.worker", "--home", str(home.root), "--socket", str(home.run / SOCKET), code=PARENT)
    other = started("-m", "gpu.worker", "--home", str(tmp_path), "--socket", str(tmp_path / "run" / SOCKET))
    child = psutil.Process(int(said(left)))
    said(other)
    (ended,) = end_orphans(home)
    assert ended.pid == left.pid
    assert "gpu.worker" in ended.command
    assert left.wait(5.0) is not None
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert other.poll() is None
    assert end_orphans(home) == []


@pytest.mark.skipif(sys.platform != "linux", reason="command lines of others")
def test_a_daemon_that_starts_ends_what_an_earlier_one_left_and_journals_it(
    home: Home,
    run: Callable[..., list[str]],
    events: Callable[[], list[AnyEvent]],
    started: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """Before anything else is begun."""
    left = started("-m", "tests.harness.worker", "--home", str(home.root), "--socket", str(home.run / SOCKET))
    said(left)
    caught = run()
    (ended,) = [event for event in events() if isinstance(event, OrphanEnded)]
    assert ended.pid == left.pid != os.getpid()
    assert any("left running" in line for line in caught)
    assert left.wait(5.0) is not None
