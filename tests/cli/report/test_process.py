"""The process of a writer: it follows the journal, and no kill loses or repeats a point."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

pytest.importorskip("tensorboard")

from cli.daemon.loop import Daemon
from cli.daemon.ports import RealPorts
from cli.home.metrics_reader import MetricsReader
from cli.home.paths import Home
from cli.report import process, processes
from cli.report.progress import lock_file, read_progress
from cli.report.tensorboard import read_events
from tests.harness.metrics_home import add_steps, append, metrics_home, step
from tests.waiting import eventually

ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home without steps."""
    return metrics_home(tmp_path)


@pytest.fixture
def start(home: Home) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts the process of a writer."""

    def started(name: str = "tensorboard", *options: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "cli.report.process", "--home", str(home.root), *options, name],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stderr=subprocess.PIPE,
        )

    return started


def sent(home: Home, name: str = "tensorboard") -> int:
    """The last step that the cursor says."""
    found = read_progress(home, name).sent.get("train")
    return found.step if found is not None else -1


def stored(home: Home) -> list[int]:
    """The steps in the event files."""
    return [
        event.step
        for path in sorted((home.metrics / "tensorboard" / "train").iterdir())
        for event, _ in read_events(path.read_bytes())
        if event.HasField("summary")
    ]


def test_it_follows_the_journal_and_sends_the_rest_when_it_is_ended(
    home: Home, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    add_steps(home, 1, 3)
    process = start()
    eventually(lambda: sent(home) == 3, 60)
    add_steps(home, 4, 5)
    process.terminate()
    assert process.wait(60) == 0
    assert stored(home) == [1, 2, 3, 4, 5]
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert read_progress(home, "tensorboard").place == f"tensorboard --logdir {home.metrics / 'tensorboard'}"


def test_a_second_process_waits_for_the_first(home: Home, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    add_steps(home, 1, 3)
    with lock_file(home, "tensorboard").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = start("tensorboard", "--once")
        waiting = psutil.Process(process.pid)
        eventually(lambda: any(each.path == held.name for each in waiting.open_files()), 60)
        assert process.poll() is None
        assert sent(home) == -1
    assert process.wait(60) == 0
    assert sent(home) == 3


def test_an_error_is_recorded_and_said_once(home: Home, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    add_steps(home, 1, 3)
    home.metrics.mkdir()
    (home.metrics / "tensorboard").write_bytes(b"a file in the place of the directory")
    said = []
    for _ in range(2):
        process = start("tensorboard", "--once")
        said.append(process.communicate(timeout=60)[1])
        assert process.returncode == 1
    assert b"tensorboard: " in said[0]
    assert said[1] == b""
    assert read_progress(home, "tensorboard").error is not None
    (home.metrics / "tensorboard").unlink()
    assert start("tensorboard", "--once").wait(60) == 0
    assert read_progress(home, "tensorboard").error is None


@pytest.mark.long
def test_kills_neither_lose_nor_repeat_a_point(home: Home, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    """kill -9 at any moment, while steps come and run again."""
    chance = random.Random(7)
    last = 0
    for _ in range(15):
        process = start()
        deadline = time.monotonic() + chance.uniform(0.5, 3.0)
        while time.monotonic() < deadline:
            first = max(1, last + 1 - (chance.randrange(4) if chance.random() < 0.2 else 0))
            last = first + chance.randrange(1, 200)
            append(home, [step(number, 1.0) for number in range(first, last + 1)])
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert start("tensorboard", "--once").wait(120) == 0
    assert stored(home) == [*range(1, last + 1)]


def test_a_daemon_reports_while_it_trains_and_the_last_step_when_it_ends(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(processes, "FINISH_S", 60.0)
    with home.config.open("a", encoding="utf-8") as config:
        config.write('\n[report]\nto = ["tensorboard"]\n')
    text = home.config.read_text(encoding="utf-8")
    first = text.index("[report]")
    home.config.write_text(text[:first] + text[text.rindex("[report]") :], encoding="utf-8")
    path = home.inbox / "a.jsonl"
    path.write_text("ok\n" * 20, encoding="utf-8")
    os.utime(path, (1.0, 1.0))
    ports = RealPorts(home, "tests.harness.worker")
    assert Daemon(home, until_idle=True, write=lambda _: None, ports=ports).run() == 0
    reader = MetricsReader(home)
    reader.catch_up()
    steps = [point.global_step for point in reader.metrics.points("train")]
    assert steps
    assert stored(home) == steps


def test_a_tool_that_hangs_ends_the_process_and_says_so(home: Home) -> None:
    hang = (
        "import time; from pathlib import Path; from cli.home.paths import Home; from cli.report import process\n"
        f"process.Watchdog(Home(Path({str(home.root)!r})), 'wandb').allow(0.5)\n"
        "time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", hang], env=environment, timeout=120, check=False, capture_output=True)
    assert ended.returncode == 1
    assert b"wandb: it did not answer within 0.5 s" in ended.stderr
    assert read_progress(home, "wandb").error == "it did not answer within 0.5 s"


class Asked(process.Stop):
    """A writer that was asked to stop. The real class sets signal handlers."""

    def __init__(self) -> None:
        self._parent, self._asked = os.getppid(), threading.Event()
        self._asked.set()


def test_a_writer_waits_for_the_one_before_it(home: Home) -> None:
    """Two would write into the same files."""
    home.run.mkdir(exist_ok=True)
    with lock_file(home, "tensorboard").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not process._locked(home, "tensorboard", Asked())
    assert process._locked(home, "tensorboard", Asked())
