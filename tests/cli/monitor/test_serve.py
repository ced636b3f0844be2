"""`keepstep monitor`: where it listens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from cli.errors import UserError
from cli.home.paths import Home
from cli.monitor.serve import serve_page

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


def test_an_address_for_others_needs_the_names_that_may_be_used(home: Home) -> None:
    with pytest.raises(UserError, match="lets other machines reach"):
        serve_page(home, "0.0.0.0", 0, (), with_parent=False)


def test_a_pattern_that_no_name_matches_is_refused(home: Home) -> None:
    for name in ("*", "a.*", "*.*.example"):
        with pytest.raises(UserError, match="is no name"):
            serve_page(home, "127.0.0.1", 0, (name,), with_parent=False)


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
