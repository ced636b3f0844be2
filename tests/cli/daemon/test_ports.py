"""The ports of the real machine."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.daemon.ports import RealPorts
from cli.home.paths import Home
from cli.inbox.watcher import Inbox
from events.settings import LogSettings


def test_a_file_that_is_closed_in_the_inbox_ends_the_wait(home: Home) -> None:
    """watchdog says so, from its own thread; the daemon need not poll for it."""
    machine, inbox = RealPorts(home), Inbox(home)
    with machine.listening(inbox, lambda _: None, LogSettings()):
        (home.inbox / "a.jsonl").write_text("whole", encoding="utf-8")
        began = time.monotonic()
        while not inbox.has_news():
            assert time.monotonic() - began < 10
            assert machine.wait(5.0) == []


def test_a_signal_ends_the_wait(home: Home) -> None:
    """Ctrl-C need not wait for the next turn."""
    machine, signals = RealPorts(home), list[str]()
    with machine.listening(Inbox(home), signals.append, LogSettings()):
        os.kill(os.getpid(), signal.SIGTERM)
        began = time.monotonic()
        machine.wait(30.0)
    assert signals == ["SIGTERM"]
    assert time.monotonic() - began < 20


def test_what_fails_in_the_block_is_what_is_raised(home: Home) -> None:
    """Ending the watch does not stand in front of the error that ended it."""
    with (
        pytest.raises(ValueError, match="the real one"),
        RealPorts(home).listening(Inbox(home), lambda _: None, LogSettings()),
    ):
        raise ValueError("the real one")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC])
def test_without_a_watch_of_the_kernel_the_inbox_is_polled(
    number: int, home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits of inotify (instances, watches) end no daemon: it says so once and finds files all the same."""

    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("watchdog.observers.inotify.InotifyEmitter.on_thread_start", full)
    drop("a.jsonl", "ok")
    said = run()
    (line,) = [line for line in said if "is not watched" in line]
    assert "fs.inotify.max_user_instances" in line
    assert any("a.jsonl: trained" in line for line in said)
