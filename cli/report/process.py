"""The process of one writer: `python -m cli.report.process --home HOME NAME`. It follows the journal until it is ended.

Training never waits for it. It runs at low priority, ends by itself if the tool does not answer, and ends on any error;
the daemon starts it again later. It also ends when its daemon is gone, after sending what is left.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from msgspec.structs import replace

from cli.config.schema import load_config
from cli.home.paths import Home, find_home
from cli.machine.clock import timestamp
from cli.report.progress import install_advice, lock_file, read_progress, write_progress
from cli.report.sync import LIMIT_S, Sync
from cli.report.writer import Writer
from gpu.runtime import log_lines
from gpu.runtime.log_lines import LogLine
from journal import durable
from journal.lock import MODE
from journal.storage import REAL

EVERY_S = 2.0
"""Time between two looks at the journal."""

LOCK_EVERY_S = 0.2
WATCH_EVERY_S = 0.2

NICE = 10
"""Training goes first."""

WRITERS = {"tensorboard": "TensorBoard", "trackio": "Trackio", "wandb": "WeightsAndBiases", "mlflow": "MLflow"}
"""The class of each tool, in the module of its name."""


class Stop:
    """True once SIGTERM or SIGINT came, or the process that started this one is gone."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._asked = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._asked.set())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # `cli.report.processes` starts it blocked

    def __bool__(self) -> bool:
        return self._asked.is_set() or os.getppid() != self._parent

    def wait(self, seconds: float) -> None:
        """Wait, at most until SIGTERM."""
        self._asked.wait(seconds)


def run(home: Home, name: str, *, once: bool) -> None:
    """Report until the end, or one time. Raises SystemExit with a reason for the log."""
    stop = Stop()
    if not _locked(home, name, stop):
        return
    watchdog = Watchdog(home, name)
    try:
        watchdog.allow(LIMIT_S)
        sync = Sync(home, name, load_config(home.config).report.project, _writer(name), watchdog.allow)
        sync.catch_up()
        while not stop and not once:
            stop.wait(EVERY_S)
            sync.catch_up()
        sync.catch_up()
        watchdog.allow(LIMIT_S)
        sync.close()
    except ImportError as error:
        _fail(home, name, f"its package is not installed ({error.name}): {install_advice(name)}")
    except Exception as error:  # noqa: BLE001 - a tool may raise anything
        _fail(home, name, f"{type(error).__name__}: {error}")


def _writer(name: str) -> type[Writer]:
    writer: type[Writer] = getattr(import_module(f"cli.report.{name}"), WRITERS[name])
    return writer


def _locked(home: Home, name: str, stop: Stop) -> bool:
    """Take the lock of this writer. False if this process has to end before another one releases it."""
    durable.make_directory(home.run)
    fd = REAL.open(lock_file(home, name), os.O_RDONLY | os.O_CREAT, MODE)  # open until the process ends
    while not REAL.try_lock(fd):
        if stop:
            return False
        stop.wait(LOCK_EVERY_S)
    return True


class Watchdog:
    """Ends this process if a call takes longer than allowed. A thread watches: a signal does not end a call in C."""

    def __init__(self, home: Home, name: str) -> None:
        self._home, self._name = home, name
        self._limit_s = self._deadline = math.inf
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def allow(self, seconds: float) -> None:
        """The next call may take this long, from now on."""
        self._limit_s, self._deadline = seconds, time.monotonic() + seconds

    def _watch(self) -> None:
        while time.monotonic() < self._deadline:
            time.sleep(WATCH_EVERY_S)
        try:
            _fail(self._home, self._name, f"it did not answer within {self._limit_s:g} s")
        finally:
            os._exit(1)


def _fail(home: Home, name: str, problem: str) -> None:
    """Record the error, report a new one on standard error, and exit."""
    problem = " ".join(problem.split())
    before = read_progress(home, name)
    with suppress(OSError):  # a full disk; the log says it
        if home.storage.exists(home.root):
            failed_at = before.failed_at or time.time()
            write_progress(home, name, replace(before, error=problem, failed_at=failed_at))
    if problem != before.error:
        line = LogLine(at=timestamp(time.time()), level="error", source="report", message=f"{name}: {problem}")
        sys.stderr.buffer.write(log_lines.encode(line))
        sys.stderr.flush()
    sys.exit(1)


def main() -> None:
    """Run the process of one writer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("name", choices=WRITERS)
    arguments = parser.parse_args()
    with suppress(OSError):
        os.nice(NICE)
    run(find_home(arguments.home), arguments.name, once=arguments.once)


if __name__ == "__main__":
    main()
