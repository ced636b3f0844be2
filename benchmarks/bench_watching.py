"""Benchmark what an open page costs: training steps with and without the monitor, in one run.

    python -m benchmarks.bench_watching

A real daemon trains a model that is made on the fly. The monitor serves a page that follows the stream; every TURN_S
seconds it is stopped or continued (SIGSTOP, SIGCONT), because a shared machine's speed drifts by more than the
difference. Compared are the median step times of neighbouring turns. A second home trains the same file without a
monitor: the weights must have the same SHA-256.
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
from datetime import datetime
from http.client import HTTPException
from pathlib import Path

import psutil

from benchmarks.bench_training import make_home as make_files
from cli.commands.init import create_home
from cli.config.schema import Config
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state, read_records
from cli.monitor.access import read_token
from events import kinds
from events.settings import CheckpointSettings, JobSettings, LoraSettings, ModelSettings, TrainingSettings

ROOT = Path(__file__).resolve().parent.parent
TURN_S = 3.0
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
    headers = {"Authorization": f"Bearer {read_token(home)}"}

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


def watched_run(home: Home) -> tuple[list[tuple[float, bool]], float]:
    """Train with a monitor that runs every other turn. Returns the turns, and the share of a core that it takes."""
    monitor = keepstep(home, "monitor", "--port", "0", stdout=subprocess.PIPE)
    assert monitor.stdout is not None
    address = monitor.stdout.readline().decode().partition("#")[0].strip()
    threading.Thread(target=follow, args=(home, address), daemon=True).start()
    training = keepstep(home, "run", "--until-idle", stdout=subprocess.DEVNULL)
    turns, cpu_s, watched_s = [], 0.0, 0.0
    process = psutil.Process(monitor.pid)
    while training.poll() is None:
        watched = len(turns) % 2 == 0
        monitor.send_signal(signal.SIGCONT if watched else signal.SIGSTOP)
        turns.append((time.time(), watched))
        before = process.cpu_times()
        time.sleep(TURN_S)
        after = process.cpu_times()
        if watched:
            cpu_s += after.user + after.system - before.user - before.system
            watched_s += TURN_S
    monitor.kill()
    monitor.wait()
    assert training.returncode == 0
    return turns, cpu_s / watched_s


def ratios(home: Home, turns: list[tuple[float, bool]]) -> list[float]:
    """Median step time of each watched turn, relative to the unwatched turn after it."""
    steps: list[list[float]] = [[] for _ in turns]
    for record in read_records(home):
        if isinstance(record.event, kinds.StepReached):
            at = datetime.fromisoformat(record.at).timestamp()
            began = at - record.event.seconds
            turn = max((index for index, (start, _) in enumerate(turns) if start <= began), default=None)
            if turn is not None and at <= turns[turn][0] + TURN_S:  # the step lies within one turn
                steps[turn].append(record.event.seconds)
    pairs = zip(steps[::2], steps[1::2], strict=False)
    return [statistics.median(one) / statistics.median(other) for one, other in pairs if len(one) > 2 < len(other)]


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
        found = ratios(watched, turns)
        same = weights(watched) == weights(alone)
        print(f"{'monitor: CPU of one core, a page open':<45} {100 * share:>10.2f} {'%':<4} {share:>6.2f}")
        print(f"{'monitor: step time with it and without it':<45} {len(found):>10} {'turns':<4} ", end="")
        print(f"{statistics.median(found):>6.3f}   load {os.getloadavg()[0]:.1f}")
        print(json.dumps({"same weights": same, "SHA-256": weights(watched), "ratios": [round(r, 3) for r in found]}))
        assert same


if __name__ == "__main__":
    main()
