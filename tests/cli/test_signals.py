"""Signals that ask a process to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.signals import handle_signals

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("sent", "times"),
    [
        ([signal.SIGHUP, signal.SIGHUP, signal.SIGHUP], 1),
        ([signal.SIGHUP, signal.SIGTERM], 1),
        ([signal.SIGTERM, signal.SIGHUP], 1),
        ([signal.SIGHUP, signal.SIGTERM, signal.SIGTERM], 2),
        ([signal.SIGINT, signal.SIGINT], 2),
    ],
)
def test_a_terminal_that_closes_asks_once(sent: list[signal.Signals], times: int) -> None:
    """However often it sends SIGHUP, and whatever systemd sends with it; a person who asks twice means it."""
    delivered: list[str] = []
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with handle_signals(writing, delivered.append):
        for number in sent:
            os.kill(os.getpid(), number)
    os.close(reading)
    os.close(writing)
    assert delivered == [number.name for number in sent if times > 1 or number == sent[0]][:times]


def test_an_ignored_hangup_stays_ignored() -> None:
    """`nohup keepstep run`."""
    code = "import os, signal\nfrom cli.signals import handle_signals\nr, w = os.pipe()\nos.set_blocking(w, False)\n"
    code += "with handle_signals(w, print):\n    os.kill(os.getpid(), signal.SIGHUP)\nprint('here')"
    command = ["nohup", sys.executable, "-P", "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )
    assert done.stdout == "here\n"


def test_an_interrupt_while_the_end_is_reported_shows_no_traceback() -> None:
    """After the command, and before the process ends."""
    program = "import cli.main\ndef run():\n    raise KeyboardInterrupt\ncli.main._run = run\ncli.main.main()\n"
    ended = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, b"Cancelled; the command had already ended\n")


def test_an_interrupt_after_the_command_ends_the_process_without_a_traceback() -> None:
    """Between the command and the end of Python nothing would catch an exception."""
    program = "import signal, sys, cli.main\nsys.argv = ['keepstep', '--version']\n"
    program += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background ignores it
    program += "try:\n    cli.main.main()\nexcept SystemExit:\n    signal.raise_signal(signal.SIGINT)\n"
    ended = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (130, b"Cancelled; the command had already ended\n")
