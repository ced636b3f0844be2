"""Measure forgetting and replay: two tasks one after another, with `[data] replay` 0, 0.2 and "auto".

`python -m benchmarks.bench_forgetting [--demo] [--rows N]`. Task A writes dates in words; task B, in three files, adds
two numbers. Each home trains A, B1, B2, B3 with the real daemon and prints the matrix of losses on held-out rows. The
default is a model of 0.1 million parameters that starts from noise and trains every weight; `--demo` trains adapters on
the demo's model, which `make demo` installs.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from calendar import month_name
from pathlib import Path

from cli.commands.demo import find_model
from cli.commands.init import create_home
from cli.commands.models.evaluation import show_matrix
from cli.config.schema import Config
from cli.home.paths import Home
from cli.home.snapshot_reader import read_evaluation, read_records
from cli.home.subprocesses import command
from events.kinds import AttemptStarted
from events.samples import SamplesSettings
from events.settings import DataSettings, FullSettings, JobSettings, LoraSettings, ModelSettings, TrainingSettings

SHARES: tuple[float | str, ...] = (0.0, 0.2, "auto")

TINY = TrainingSettings(batch_size=8, gradient_accumulation=1, epochs=6, learning_rate=3e-3, warmup_steps=5, threads=1)
DEMO = TrainingSettings(batch_size=4, gradient_accumulation=1, epochs=2, learning_rate=1e-3, warmup_steps=3)


def dates(rows: int, seed: int) -> list[tuple[str, str]]:
    """Prompts and answers of task A."""
    draw = random.Random(seed)
    days = [(draw.randint(1900, 2099), draw.randint(1, 12), draw.randint(1, 28)) for _ in range(rows)]
    return [(f"Write {y:04d}-{m:02d}-{d:02d} in words.", f"{d} {month_name[m]} {y}") for y, m, d in days]


def sums(rows: int, seed: int) -> list[tuple[str, str]]:
    """Prompts and answers of task B."""
    draw = random.Random(seed)
    pairs = [(draw.randint(10, 99), draw.randint(10, 99)) for _ in range(rows)]
    return [(f"What is {a} + {b}?", f"{a} + {b} = {a + b}") for a, b in pairs]


def add(home: Home, name: str, pairs: list[tuple[str, str]]) -> None:
    """Queue a data file."""
    path = home.root.parent / name
    lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in pairs]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run("add", str(path), "--home", str(home.root))


def run(*arguments: str) -> None:
    """Run a command of keepstep. Raises CalledProcessError."""
    subprocess.run([sys.executable, "-P", "-m", "cli", *arguments], check=True, stdout=subprocess.DEVNULL)


def measure(model: Path, replay: float | str, rows: int, *, demo: bool) -> None:
    """Train the four files in a new home, and print what was forgotten."""
    job = JobSettings(
        model=ModelSettings(path=str(model)),
        method=LoraSettings(r=16, alpha=32.0) if demo else FullSettings(),
        data=DataSettings(holdout=0.1, replay=replay),  # type: ignore[arg-type]  # one of SHARES
        training=DEMO if demo else TINY,
    )
    config = Config(job=job, samples=SamplesSettings(prompts=0))
    home = create_home(model.parent / f"replay-{replay}", model=str(model), config=config)
    for name, pairs in (("a.jsonl", dates(rows, 1)), *((f"b{n}.jsonl", sums(rows, n)) for n in (1, 2, 3))):
        add(home, name, pairs)
    run("run", "--until-idle", "--home", str(home.root))
    starts = [record.event for record in read_records(home) if isinstance(record.event, AttemptStarted)]
    shares = ", ".join(f"{each.settings.replay_share:.0%}" for each in starts)
    print(f"\nreplay = {replay}: {shares}")
    show_matrix(read_evaluation(home), json=False)
    sys.stdout.flush()


def main() -> None:
    """Measure all shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300, help="rows of a file; a tenth is held out")
    parser.add_argument("--demo", action="store_true", help="train adapters on the demo's model")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        model = Path(place) / ("demo" if given.demo else "model")
        if given.demo:
            subprocess.run(command("gpu.model.gguf", str(find_model()), str(model)), check=True)
        else:
            from tests.harness.tiny_model import make_tiny_model

            make_tiny_model(model, hidden_size=64, intermediate_size=192, num_hidden_layers=3)
        for replay in SHARES:
            measure(model, replay, given.rows, demo=given.demo)


if __name__ == "__main__":
    main()
