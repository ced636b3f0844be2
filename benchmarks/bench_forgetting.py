"""Measure forgetting and replay: two tasks one after another, with `[data] replay` 0, 0.2 and "auto".

`python -m benchmarks.bench_forgetting [--rows N] [--keep DIRECTORY]`, with the demo's model (`make demo` installs it).
Task A writes dates in words; task B, in three files, adds two numbers. Each home trains A, B1, B2, B3 with the real
daemon and prints the matrix of losses on held-out rows.
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

from cli.commands.demo import MODEL, find_model
from cli.commands.init import create_home
from cli.commands.models.evaluation import show_matrix
from cli.config.schema import Config
from cli.home.paths import Home
from cli.home.snapshot_reader import read_evaluation, read_records
from cli.home.subprocesses import command
from events.kinds import AttemptStarted
from events.samples import SamplesSettings
from events.settings import DataSettings, JobSettings, LoraSettings, ModelSettings, TrainingSettings

MONTHS = month_name[1:]

SHARES: tuple[float | str, ...] = (0.0, 0.2, "auto")


def dates(rows: int, seed: int) -> list[tuple[str, str]]:
    """Prompts and answers of task A."""
    draw = random.Random(seed)
    days = [(draw.randint(1900, 2099), draw.randint(1, 12), draw.randint(1, 28)) for _ in range(rows)]
    return [(f"Write {y:04d}-{m:02d}-{d:02d} in words.", f"{d} {MONTHS[m - 1]} {y}") for y, m, d in days]


def sums(rows: int, seed: int) -> list[tuple[str, str]]:
    """Prompts and answers of task B."""
    draw = random.Random(seed)
    pairs = [(draw.randint(10, 99), draw.randint(10, 99)) for _ in range(rows)]
    return [(f"What is {a} + {b}?", f"{a} + {b} = {a + b}") for a, b in pairs]


def add(home: Home, name: str, pairs: list[tuple[str, str]]) -> None:
    """Write a data file into the inbox."""
    lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in pairs]
    (home.inbox / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(*arguments: str) -> None:
    """Run a command of keepstep. Raises CalledProcessError."""
    subprocess.run([sys.executable, "-P", "-m", *arguments], check=True, stdout=subprocess.DEVNULL)


def measure(place: Path, replay: float | str, rows: int) -> None:
    """Train the four files in a new home, and print what was forgotten."""
    job = JobSettings(
        model=ModelSettings(path=str(place / MODEL)),
        method=LoraSettings(r=16, alpha=32.0),
        data=DataSettings(holdout=0.2, replay=replay),  # type: ignore[arg-type]  # one of SHARES
        training=TrainingSettings(batch_size=4, gradient_accumulation=1, epochs=2, learning_rate=1e-3, warmup_steps=3),
    )
    home = create_home(
        place / f"replay-{replay}", model=str(place / MODEL), config=Config(job=job, samples=SamplesSettings(prompts=0))
    )
    files = [("a.jsonl", dates(rows, 1)), *((f"b{n}.jsonl", sums(rows, n)) for n in (2, 3, 4))]
    for name, pairs in files:
        add(home, name, pairs)
        run("cli", "run", "--until-idle", "--home", str(home.root))
    shares = [
        record.event.settings.replay_share for record in read_records(home) if isinstance(record.event, AttemptStarted)
    ]
    print(f"\nreplay = {replay}: shares of the files {', '.join(f'{share:.0%}' for share in shares)}", flush=True)
    show_matrix(read_evaluation(home), json=False)
    sys.stdout.flush()


def main() -> None:
    """Measure all shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60, help="rows of a file; a fifth is held out")
    parser.add_argument("--keep", type=Path, help="a new directory for the homes; default: they are deleted")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = given.keep or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        if not (place / MODEL).exists():
            (place / MODEL).parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(command("gpu.model.gguf", str(find_model()), str(place / MODEL)), check=True)
        for replay in SHARES:
            measure(place, replay, given.rows)


if __name__ == "__main__":
    main()
