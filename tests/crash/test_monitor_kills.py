"""kill -9 of the monitor, while a page is open and files are trained: nothing changes in the home."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from random import Random

import pytest

from cli.monitor.access import TOKEN
from cli.web.token import read_token
from events import kinds
from tests.crash.checks import assert_same, calm_twin, check, check_given
from tests.crash.life import Life

ROOT = Path(__file__).parents[2]

ROUNDS = 6


def start_monitor(life: Life) -> tuple[subprocess.Popen[bytes], str]:
    """A monitor, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "cli", "monitor", "--port", "0", "--home", str(life.home.root)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    return process, process.stdout.readline().decode().partition("#")[0].strip()


def look(life: Life, address: str, path: str) -> int:
    """Read a view, or the stream until the server dies. Returns the number of bytes."""
    asked = urllib.request.Request(
        f"{address}{path}", headers={"Authorization": f"Bearer {read_token(life.home, TOKEN)}"}
    )
    received = 0
    with suppress(OSError, HTTPException), urllib.request.urlopen(asked, timeout=60) as answer:
        while chunk := answer.read1(65_536):
            received += len(chunk)
    return received


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_home_with_a_monitor_that_is_killed_ends_with_the_same_bytes(tmp_path: Path) -> None:
    choose = Random(11)
    life = Life.faked(tmp_path / "watched", choose)
    life.start(until_idle=False)
    streamed = []
    for number in range(ROUNDS):
        for _ in range(3):
            life.more()
        process, address = start_monitor(life)
        assert look(life, address, "api/status") > 0
        reader = threading.Thread(target=lambda at=address: streamed.append(look(life, at, "api/stream")))
        reader.start()
        assert look(life, address, "api/metrics") > 0
        threading.Event().wait(choose.uniform(0.1, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        reader.join()
        assert life.runs(), f"the daemon ended in round {number}"
    assert life.until(life.happened(kinds.JobTrained, 3 * ROUNDS))
    assert life.command("stop") == 0
    assert life.ended() == 0
    assert all(streamed)
    check(life.home)
    check_given(life)
    assert_same(life.home, calm_twin(life, tmp_path / "calm"))
