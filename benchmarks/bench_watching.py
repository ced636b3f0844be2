"""Benchmark what an open page costs: training steps with and without the monitor, in one run.

    python -m benchmarks.bench_watching

A real daemon trains a model that is made on the fly. The monitor serves a page that follows the stream. Every few steps
it is stopped or continued (SIGSTOP, SIGCONT), because a shared machine's speed drifts by more than the difference.
Compared are the median step times of neighbouring turns. A second home trains the same file without a monitor: the
weights must have the same SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import psutil

from benchmarks.bench_training import make_home as make_files
from cli.commands.init import create_home
from cli.config.schema import Config
from cli.home.metrics_reader import MetricsReader
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.monitor.access import TOKEN
from cli.web.token import read_token
from events import kinds
from events.settings import CheckpointSettings, JobSettings, LoraSettings, ModelSettings, TrainingSettings

ROOT = Path(__file__).resolve().parent.parent
STEPS_PER_TURN = 8
"""The first step of a turn does not count: the monitor was stopped or continued in it."""

LOOK_EVERY_S = 0.05
EPOCHS = int(os.environ.get("EPOCHS", "12"))

Row = tuple[str, float, str, float]
"""Name, figure, unit, and ratio."""


def new_home(directory: Path) -> Home:
    """A home with a model and one file in its inbox."""
    directory.mkdir()
    job, _ = make_files(directory)
    settings = JobSettings(
        model=ModelSettings(path=str(directory / "model")),
        method=LoraSettings(r=16),
        training=TrainingSettings(batch_size=2, gradient_accumulation=2, epochs=EPOCHS, threads=1),
        checkpoints=CheckpointSettings(every_steps=50),
    )
    home = create_home(directory / "home", model=str(directory / "model"), config=Config(job=settings))
    (directory / "data" / f"{job}.jsonl").rename(home.inbox / "rows.jsonl")
    os.utime(home.inbox / "rows.jsonl", (1.0, 1.0))
    return home


def keepstep(home: Home, *words: str, **options: int) -> subprocess.Popen[bytes]:
    """Start a command."""
    line = [sys.executable, "-P", "-m", "cli", *words, "--home", str(home.root)]
    return subprocess.Popen(line, env={**os.environ, "PYTHONPATH": str(ROOT)}, **options)


def follow(home: Home, address: str) -> None:
    """What an open page does: follow the stream, and read the chart each second."""
    headers = {"Authorization": f"Bearer {read_token(home, TOKEN)}"}

    def read(path: str) -> None:
        with (
            suppress(OSError, HTTPException),
            urllib.request.urlopen(urllib.request.Request(f"{address}{path}", headers=headers)) as answer,
        ):
            while answer.read1(65_536):
                pass

    threading.Thread(target=read, args=("api/stream",), daemon=True).start()
    while True:
        read("api/metrics?points=1000")
        time.sleep(1.0)


def watched_run(home: Home) -> tuple[list[list[float]], float]:
    """Train with a monitor that runs every other turn.

    Returns the step times of each turn, seconds, and the share of a core that the monitor takes while it runs.
    """
    monitor = keepstep(home, "monitor", "--port", "0", stdout=subprocess.PIPE)
    assert monitor.stdout is not None
    address = monitor.stdout.readline().decode().partition("#")[0].strip()
    threading.Thread(target=follow, args=(home, address), daemon=True).start()
    training = keepstep(home, "run", "--until-idle", stdout=subprocess.DEVNULL)
    reader, process = MetricsReader(home, records_kept=10_000), psutil.Process(monitor.pid)
    turns: list[list[float]] = [[]]
    cpu_s = watched_s = 0.0
    began, before = time.monotonic(), process.cpu_times()
    while training.poll() is None:
        time.sleep(LOOK_EVERY_S)
        reader.catch_up()
        turns[-1] += [each.event.seconds for each in reader.records if isinstance(each.event, kinds.StepReached)]
        reader.records.clear()
        if len(turns[-1]) < STEPS_PER_TURN:
            continue
        after = process.cpu_times()
        if len(turns) % 2 and len(turns) > 1:  # the first turn has the start of both
            cpu_s += after.user + after.system - before.user - before.system
            watched_s += time.monotonic() - began
        turns.append([])
        monitor.send_signal(signal.SIGCONT if len(turns) % 2 else signal.SIGSTOP)
        began, before = time.monotonic(), process.cpu_times()
    monitor.kill()
    monitor.wait()
    assert training.returncode == 0
    return turns, cpu_s / watched_s


def ratios(turns: list[list[float]]) -> list[float]:
    """Median step time of each turn with the monitor, relative to the mean of the turns before and after it."""
    medians = [statistics.median(turn[1:]) for turn in turns if len(turn) >= STEPS_PER_TURN]
    return [
        medians[index] / statistics.mean((medians[index - 1], medians[index + 1]))
        for index in range(2, len(medians) - 1, 2)
    ]


def weights(home: Home) -> str:
    """SHA-256 of the tensors of the head."""
    head = load_state(home)[0].state.head.checkpoint
    assert head is not None
    files = sorted((home.checkpoints / head.id).glob("*.safetensors"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def main() -> None:
    """Print the measurements."""
    with tempfile.TemporaryDirectory() as directory:
        watched, alone = new_home(Path(directory) / "watched"), new_home(Path(directory) / "alone")
        turns, share = watched_run(watched)
        assert keepstep(alone, "run", "--until-idle", stdout=subprocess.DEVNULL).wait() == 0
        found = ratios(turns)
        same = weights(watched) == weights(alone)
        print(f"{'monitor: CPU of one core, a page open':<45} {100 * share:>10.2f} {'%':<4} {share:>6.2f}")
        print(f"{'monitor: step time with it and without it':<45} {len(found):>10} {'turns':<4} ", end="")
        print(f"{statistics.median(found):>6.3f}   load {os.getloadavg()[0]:.1f}")
        print(json.dumps({"same weights": same, "SHA-256": weights(watched), "ratios": [round(r, 3) for r in found]}))
        assert same


if __name__ == "__main__":
    main()
