"""Homes to be killed in: a tiny model, two small files, settings in which every kind of state matters."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cli.commands.init import create_home
from cli.config.schema import Config
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from core.state import State
from events.samples import SamplesSettings
from events.settings import (
    CheckpointSettings,
    DataSettings,
    EvaluationSettings,
    JobSettings,
    LoraSettings,
    MethodSettings,
    ModelSettings,
    TrainingSettings,
)
from gpu.artifacts.manifest import MANIFEST
from tests.harness.tiny_model import make_tiny_model

KEEPSTEP = [sys.executable, "-P", "-c", "from cli.main import main; main()"]
"""The command, without depending on where the console script was installed."""


OFTEN = SamplesSettings(every_steps=4, prompts=2, max_new_tokens=3, cost_max=1000.0)
"""Samples that are never put off: whether one is follows from the time that steps take."""


def settings(model: Path, *, method: MethodSettings | None = None, precision: str = "bf16") -> JobSettings:
    """Dropout, accumulation, two epochs, carried moments, a schedule, evaluations: all that a resume may get wrong."""
    return JobSettings(
        model=ModelSettings(path=str(model)),
        method=method or LoraSettings(r=4, alpha=8.0, dropout=0.1),
        data=DataSettings(max_length=64, validation="held-out.jsonl"),
        evaluation=EvaluationSettings(every_steps=5, rows=5),
        training=TrainingSettings(
            batch_size=2,
            gradient_accumulation=2,
            epochs=2,
            learning_rate=1e-3,
            warmup_steps=2,
            weight_decay=0.01,
            precision=precision,
            threads=1,
        ),
        checkpoints=CheckpointSettings(every_steps=2, every_seconds=0.0, keep=2),
    )


def make_home(root: Path, *, method: MethodSettings | None = None, precision: str = "bf16") -> Home:
    """A home with two files in its inbox, nothing trained yet, and a validation set next to them."""
    model = root.parent / "tiny-model"
    if not model.exists():
        make_tiny_model(model)
    config = Config(job=settings(model, method=method, precision=precision), samples=OFTEN)
    home = create_home(root, model=str(model), config=config)
    _write_rows(home.root / "held-out.jsonl", 200, 8)
    _write_rows(home.inbox / "first.jsonl", 0, 22)
    _write_rows(home.inbox / "second.jsonl", 100, 18)
    return home


def _write_rows(path: Path, first: int, count: int) -> None:
    rows = [{"prompt": f"What is {n} plus {n}?", "completion": f"It is {n + n}."} for n in range(first, first + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    old = path.stat().st_mtime - 3600  # complete since long ago: the inbox need not wait for it to settle
    os.utime(path, (old, old))


def start_daemon(home: Home, **environment: str) -> subprocess.Popen[bytes]:
    """`keepstep run --until-idle`."""
    return start_process(home, [*KEEPSTEP, "run", "--until-idle", "--home", str(home.root)], **environment)


def start_process(home: Home, command: Sequence[str], **environment: str) -> subprocess.Popen[bytes]:
    """A daemon or a command, its output kept in the home's logs."""
    with (home.logs / "run.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            start_new_session=True,
        )


def run_to_the_end(home: Home, **environment: str) -> int:
    """The exit code of a run that nobody disturbs."""
    return start_daemon(home, **environment).wait(timeout=240)


def state_of(home: Home) -> State:
    """What the journal says."""
    return load_state(home)[0].state


def trained(home: Home) -> dict[str, str]:
    """SHA-256 of everything that training produced: every file of the head, weights, optimizer's state, log and all.

    Without the manifest, which names the attempt, and of these it took more where something happened.
    """
    head = state_of(home).head.checkpoint
    assert head is not None
    files = sorted(path for path in (home.checkpoints / head.id).iterdir() if path.name != MANIFEST)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def log_of(home: Home) -> str:
    """What was printed, for the message of a test that failed."""
    parts = [home.logs / "run.log", *sorted(home.logs.glob("*.jsonl"))]
    return "\n".join(path.read_text(encoding="utf-8", errors="replace")[-4000:] for path in parts if path.exists())
