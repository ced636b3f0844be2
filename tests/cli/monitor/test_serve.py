"""`keepstep monitor`: where it listens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from cli.errors import UserError
from cli.home.paths import Home
from cli.monitor import serve
from cli.monitor.serve import is_loopback, listen, serve_page

ROOT = Path(__file__).parents[3]

DAEMON = """
import sys, time
from pathlib import Path
from cli.home.paths import Home
from cli.monitor.serve import monitor_process
with monitor_process(Home(Path(sys.argv[1]))):
    time.sleep(600)
"""
"""Stands for a daemon with `--monitor`."""


def test_only_addresses_of_this_machine_are_loopback() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    with pytest.raises(UserError, match="is not an address"):
        is_loopback("my-machine")


def test_an_address_for_others_needs_the_names_that_may_be_used(home: Home) -> None:
    with pytest.raises(UserError, match="lets other machines reach"):
        serve_page(home, "0.0.0.0", 0, (), with_parent=False)


def test_a_pattern_that_no_name_matches_is_refused(home: Home) -> None:
    for name in ("*", "a.*", "*.*.example"):
        with pytest.raises(UserError, match="is no name"):
            serve_page(home, "127.0.0.1", 0, (name,), with_parent=False)


def test_a_taken_port_is_passed_over_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(serve, "PORT", port)
        with listen("127.0.0.1", None) as found:
            assert found.getsockname()[1] > port
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be used") as caught:
            listen("127.0.0.1", port)
        free = int(caught.value.advice.removeprefix("the next free one: --port "))
        with listen("127.0.0.1", free):
            assert free > port


def test_the_page_is_served_until_ctrl_c(home: Home) -> None:
    arguments = [sys.executable, "-P", "-m", "cli", "monitor", "--port", "0", "--home", str(home.root)]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().decode().partition("#")[0]
        with urllib.request.urlopen(address) as answer:  # the address that it printed
            assert b"<title>keepstep</title>" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == b""


def test_the_page_of_run_ends_with_the_daemon_even_if_that_is_killed(home: Home) -> None:
    """Otherwise the next `run --monitor` would find its port taken."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-P", "-c", DAEMON, str(home.root)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert b"http" in process.stdout.readline() + process.stdout.readline()
        process.kill()
        process.stdout.read()  # returns when the page has closed it too
