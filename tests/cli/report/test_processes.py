"""The daemon keeps the processes of its writers running, and never waits for them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.home.paths import Home
from cli.report import processes
from cli.report.processes import FIRST_WAIT_S, LONGEST_WAIT_S, Reporter, Reporters
from events.settings import ReportSettings


class Clock:
    """A clock that a test sets."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Process:
    """A process that ends when a test says so."""

    code: int | None = None
    terminated = False

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self.terminated = True

    def wait(self, timeout: float) -> int:
        return 0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def reporter(tmp_path: Path, clock: Clock, process: Process) -> Reporter:
    """Each start begins `process` again."""

    def start(_: object) -> Process:
        process.code = None
        return process

    return Reporter(Home(tmp_path, clock=clock), "tensorboard", start)


def test_a_process_that_ends_is_started_again_later_and_later(
    reporter: Reporter, clock: Clock, process: Process
) -> None:
    waits = []
    for _ in range(12):
        reporter.keep_running()
        process.code = 1
        began = clock.now
        reporter.keep_running()
        while reporter.process is None:
            clock.now += 1.0
            reporter.keep_running()
        waits.append(clock.now - began)
    assert waits[:3] == [2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S, 8 * FIRST_WAIT_S]
    assert waits[-1] == LONGEST_WAIT_S


def test_a_process_that_ran_long_is_started_again_soon(reporter: Reporter, clock: Clock, process: Process) -> None:
    reporter.keep_running()
    clock.now += LONGEST_WAIT_S + 1
    process.code = -signal.SIGKILL
    reporter.keep_running()
    clock.now += FIRST_WAIT_S
    reporter.keep_running()
    assert reporter.process is not None


def test_the_config_decides_which_processes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Process] = []

    def start(_: object) -> Process:
        started.append(Process())
        return started[-1]

    monkeypatch.setattr(processes, "_start", start)
    reporters = Reporters(Home(tmp_path))
    reporters.keep_running(ReportSettings())
    assert started == []
    reporters.keep_running(ReportSettings(to=("tensorboard", "trackio")))
    reporters.keep_running(ReportSettings(to=("tensorboard", "trackio")))
    assert len(started) == 2
    reporters.keep_running(ReportSettings(to=("trackio",)))
    assert [each.terminated for each in started] == [True, False]
    reporters.keep_running(ReportSettings(to=("trackio",), project="other"))
    assert [each.terminated for each in started] == [True, True, False]


def test_the_end_of_the_daemon_does_not_wait_for_a_process_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "FINISH_S", 0.2)
    deaf = [
        sys.executable,
        "-c",
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(600)",
    ]
    started: list[subprocess.Popen[bytes]] = []

    def start(_: object) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(deaf, stdout=subprocess.PIPE))
        assert started[-1].stdout is not None
        started[-1].stdout.readline()  # it ignores the signal from now on
        return started[-1]

    monkeypatch.setattr(processes, "_start", start)
    reporters = Reporters(Home(tmp_path))
    reporters.keep_running(ReportSettings(to=("wandb",)))
    reporters.finish()
    (process,) = started
    assert process.poll() is None
    process.kill()
    process.wait()
