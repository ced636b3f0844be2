"""The writers' processes of one daemon: starts those that the config names, and starts one that ended again later."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Callable
from typing import BinaryIO, Protocol, cast

from cli.home.log_files import OutputReader
from cli.home.paths import Home
from cli.home.subprocesses import command
from cli.report.progress import forget_errors
from events.settings import ReportSettings

FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 300.0
"""Time until a writer that ended is started again. It doubles each time, until the writer ran for longer than that."""

FINISH_S = 10.0
"""The end of the daemon waits at most this long for the last points. A writer that needs longer continues alone."""

log = logging.getLogger("keepstep.report")


class Process(Protocol):
    """What is used of subprocess.Popen."""

    def poll(self) -> int | None:
        """The exit code; None: it runs."""

    def terminate(self) -> None:
        """Ask it to end."""

    def wait(self, timeout: float) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""


class Reporter:
    """The process of one writer."""

    def __init__(self, home: Home, name: str, start: Callable[[list[str]], Process]) -> None:
        self._command = command("cli.report.process", "--home", str(home.root), name)
        self._clock, self._start = home.clock, start
        self._wait_s = FIRST_WAIT_S
        self._next_start = 0.0
        self.process: Process | None = None

    def keep_running(self) -> None:
        """Start the process if it does not run and a start is due. Never raises OSError."""
        now = self._clock.monotonic()
        if self.process is not None and self.process.poll() is not None:
            self.process = None
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S) if now < self._next_start else FIRST_WAIT_S
            self._next_start = now + self._wait_s
        if self.process is None and now >= self._next_start:
            self._next_start = now + LONGEST_WAIT_S  # ending before this counts as a failure
            try:
                self.process = self._start(self._command)
            except OSError as error:
                log.warning("a report cannot be started: %s", error, extra={"source": "report"})

    def end(self) -> None:
        """Ask the process to send the rest and end."""
        if self.process is not None:
            self.process.terminate()


class Reporters:
    """All writers of a daemon."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._running: dict[str, Reporter] = {}
        self._ending: list[Reporter] = []
        self._settings: ReportSettings | None = None

    def keep_running(self, settings: ReportSettings) -> None:
        """Start and end processes so that those of the settings run. Costs almost nothing without any."""
        if settings != self._settings:
            same_project = self._settings is None or settings.project == self._settings.project
            names = settings.to if same_project else ()
            forget_errors(self._home, settings.to)
            for name in [name for name in self._running if name not in names]:
                self._running[name].end()
                self._ending.append(self._running.pop(name))
            self._settings = settings
        for name in settings.to:
            if name not in self._running:
                self._running[name] = Reporter(self._home, name, _start)
            self._running[name].keep_running()
        if self._ending:
            self._ending = [each for each in self._ending if each.process is not None and each.process.poll() is None]

    def finish(self) -> None:
        """End all processes, and wait FINISH_S for the last points."""
        deadline = time.monotonic() + FINISH_S
        for each in self._running.values():
            each.end()
        for name, each in self._running.items():
            if each.process is None:
                continue
            try:
                each.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("%s still receives points; its process continues", name, extra={"source": "report"})
        self._running = {}


def _start(line: list[str]) -> subprocess.Popen[bytes]:
    # The process inherits the mask: a SIGTERM that comes before it can handle one waits until it can.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is for the daemon
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    OutputReader(cast("BinaryIO", process.stdout), "report")
    return process
