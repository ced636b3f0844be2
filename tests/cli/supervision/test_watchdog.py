"""The heartbeats of the daemon, and the file that stops it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.supervision.sd_notify import Notifier, parse_datagram
from cli.supervision.watchdog import HEARTBEAT_EVERY_S, HeartbeatStorage, Watchdog, WatchedPorts
from journal import durable
from tests.waiting import eventually

ROOT = Path(__file__).parents[3]
Drop = Callable[..., Path]


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "n"))
        bound.settimeout(20)
        yield bound


@pytest.fixture
def watchdog(listener: socket.socket) -> Watchdog:
    return Watchdog(Notifier(listener.getsockname()))


def allow_silent_workers(home: Home) -> None:
    """These tests do not look at silent workers."""
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace("silence_s = 1.0", "silence_s = 600.0"), encoding="utf-8")


@contextmanager
def daemon(home: Home, notify: str | None = None, *more: str) -> Iterator[subprocess.Popen[str]]:
    allow_silent_workers(home)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({"NOTIFY_SOCKET": notify} if notify else {})
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.harness.daemon", str(home.root), "tests.harness.worker", *more],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def received(listener: socket.socket, until: str) -> list[dict[str, str]]:
    """Everything up to the first message with this word."""
    said: list[dict[str, str]] = []
    while not said or until not in said[-1]:
        said.append(parse_datagram(listener.recv(4096)))
    return said


def everything(listener: socket.socket) -> list[dict[str, str]]:
    listener.setblocking(False)
    said = []
    try:
        while True:
            said.append(parse_datagram(listener.recv(4096)))
    except BlockingIOError:
        return said


def test_the_daemon_is_ready_after_recovery_and_sends_heartbeats_from_then_on(
    home: Home, drop: Drop, listener: socket.socket
) -> None:
    """Each has the status line of `keepstep status`; the last message says that the daemon stops."""
    drop("a.jsonl", "ok wait")
    with daemon(home, listener.getsockname()) as process:
        before = received(listener, "READY")
        assert before[0]["STATUS"] == "recovering"
        assert all("EXTEND_TIMEOUT_USEC" in said for said in before[:-1])
        lines = []
        while "training a.jsonl" not in lines:
            (*_, beat) = received(listener, "WATCHDOG")
            lines.append(beat.get("STATUS", ""))
            assert "EXTEND_TIMEOUT_USEC" not in beat
        children = psutil.Process(process.pid).children()
        assert children
        assert not any("NOTIFY_SOCKET" in child.environ() for child in children)
        process.send_signal(signal.SIGTERM)
        received(listener, "STOPPING")
        assert process.wait(20) == 0


def test_a_stopped_loop_sends_no_heartbeat(home: Home, listener: socket.socket) -> None:
    """Heartbeats come from the turns of the loop; no thread sends them."""
    with daemon(home, listener.getsockname()) as process:
        received(listener, "READY")
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        everything(listener)
        time.sleep(2.5 * HEARTBEAT_EVERY_S)  # what is not to come can only be waited for
        assert everything(listener) == []


def test_a_stop_file_stops_it_as_a_command_would(home: Home, drop: Drop) -> None:
    """In the middle of a step: that is committed, and the file is gone, so that the next run is not stopped too."""
    drop("a.jsonl", "ok wait ok ok")
    with daemon(home) as process:
        eventually(lambda: load_state(home)[0].state.attempts.reached.step >= 1)
        home.stop_file.touch()
        assert process.wait(20) == 0
    state = load_state(home)[0].state
    assert (state.head.global_step, state.daemon.status) == (2, "off")
    assert not home.stop_file.exists()


def test_a_stop_file_that_was_there_before_stops_the_next_daemon_once(home: Home) -> None:
    """It means stop, whenever it was put there."""
    home.stop_file.touch()
    with daemon(home) as process:
        assert process.wait(20) == 0
    assert not home.stop_file.exists()


def test_a_long_copy_is_no_hang(tmp_path: Path, listener: socket.socket, watchdog: Watchdog) -> None:
    """Reads and writes send heartbeats too: one a second, not one for each piece."""
    (tmp_path / "large").write_bytes(bytes(20_000_000))
    storage = HeartbeatStorage(watchdog)
    for _ in range(2):
        began = time.monotonic()
        durable.copy_durably(tmp_path / "large", tmp_path / "copy", storage=storage)
        said = everything(listener)
        assert said
        assert all(words.get("WATCHDOG") == "1" for words in said)
        assert (
            len(said) <= 3 + (time.monotonic() - began) / HEARTBEAT_EVERY_S
        )  # one each second, and two for each fsync
        eventually(lambda: watchdog.is_due)


def test_a_large_file_has_its_time_to_reach_the_disk(
    tmp_path: Path, listener: socket.socket, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timeout grows with the size of the file for one fsync, and is then restored."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1_000_000_000)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    durable.fsync_file(tmp_path / "large", storage=HeartbeatStorage(watchdog))
    assert synced == [1_000_000_000]
    timeouts = [int(said["WATCHDOG_USEC"]) / 1e6 for said in everything(listener) if "WATCHDOG_USEC" in said]
    assert timeouts == [140.0, 40.0]


def test_a_long_wait_is_no_hang(
    home: Home, listener: socket.socket, watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the loop waits for a minute and sends heartbeats; a wake-up still ends the wait."""
    monkeypatch.setattr("cli.supervision.watchdog.LONGEST_WAIT_S", 1.2 * HEARTBEAT_EVERY_S)
    ports = WatchedPorts(home, watchdog)
    began = time.monotonic()
    ports._wake()
    assert ports.wait(60.0) == []
    assert time.monotonic() - began < 20
    assert ports.wait(2.5) == []
    assert time.monotonic() - began >= 2.5
    assert len([said for said in everything(listener) if "WATCHDOG" in said]) >= 2


def test_without_a_listener_nothing_is_read(home: Home) -> None:
    """Without a listener the status is not read."""
    watchdog = Watchdog(Notifier(None))
    assert not watchdog.is_due
    assert not watchdog.line_is_due()


def test_heartbeats_of_the_disk_do_not_delay_the_status_line(watchdog: Watchdog) -> None:
    """The loop reads more often than it waits, but the status line is still sent."""
    assert watchdog.line_is_due()
    assert not watchdog.line_is_due()
    watchdog.beat()
    eventually(lambda: watchdog.is_due)
    watchdog.beat()
    assert not watchdog.is_due
    assert watchdog.line_is_due()
