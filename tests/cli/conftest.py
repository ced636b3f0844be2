"""Homes without a model, in which the fake worker trains; and homes with a tiny one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from cli.commands.init import create_home
from cli.config.schema import Config, WorkerSettings
from cli.daemon.loop import Daemon
from cli.home.event_store import EventStore
from cli.home.paths import Home
from core.commands import RequestConsolidation
from events.kinds import AnyEvent
from events.settings import CheckpointSettings, JobSettings, ModelSettings
from tests.harness.daemon import run_until_idle

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A new home; three steps to a checkpoint, half a second of silence is too long."""
    config = Config(
        job=JobSettings(
            model=ModelSettings(path="nowhere"),
            checkpoints=CheckpointSettings(every_steps=3, every_seconds=0.0, keep=2),
        ),
        worker=WorkerSettings(silence_s=1.0),
    )
    return create_home(tmp_path / "home", model="nowhere", config=config)


@pytest.fixture
def drop(home: Home) -> Callable[..., Path]:
    """`drop("name", "ok ok die")` puts a complete file into the inbox."""

    def into_inbox(name: str, steps: str, lane: str = "") -> Path:
        path = home.inbox / lane / name
        path.write_text("\n".join(steps.split()) + "\n", encoding="utf-8")
        os.utime(path, (1.0, 1.0))
        return path

    return into_inbox


@pytest.fixture
def run(home: Home, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Runs the daemon in this process, with the fake worker, until idle; what it said."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for commands that the test runs, too
    return partial(run_until_idle, home)


@pytest.fixture
def events(home: Home) -> Callable[[], list[AnyEvent]]:
    """Everything that the home's journal says."""
    from events.codec import decode_record
    from journal import START, follow

    return lambda: [record.event for record in follow(home.journal, decode_record, START)[0]]


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> Path:
    from tests.harness.tiny_model import make_rows, make_tiny_model

    home = create_home(tmp_path_factory.mktemp("learned") / "home", model="model", method="lora")
    make_tiny_model(home.root / "model")
    config = home.config.read_text(encoding="utf-8")
    home.config.write_text(config.replace("every_steps = 50", "every_steps = 1"), encoding="utf-8")
    (home.inbox / "a.jsonl").write_bytes(make_rows(32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(warm_python))
        assert Daemon(home, until_idle=True, write=lambda _: None).run() == 0
    return home.root


@pytest.fixture
def trained(trained_once: Path, warm_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home where the real worker trained on a file of 32 rows, in two steps with a checkpoint each."""
    monkeypatch.setattr(sys, "executable", str(warm_python))
    shutil.copytree(trained_once, tmp_path / "home")
    return Home(tmp_path / "home")


def train(home: Home, rows: bytes = b"") -> None:
    """Do what is pending, after the file of these rows."""
    if rows:
        path = home.inbox / "rows.jsonl"
        path.write_bytes(rows)
        os.utime(path, (1.0, 1.0))
    assert Daemon(home, until_idle=True, write=lambda _: None).run() == 0


@pytest.fixture(scope="session")
def consolidated_once(tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> Path:
    """A home with v001 and two checkpoints on it. The learning rate is high, so that the answers differ."""
    from tests.harness.tiny_model import make_rows, make_tiny_model

    home = create_home(tmp_path_factory.mktemp("consolidated") / "home", model="model")
    make_tiny_model(home.root / "model")
    config = home.config.read_text(encoding="utf-8")
    for default, value in (("every_steps = 50", "every_steps = 1"), ("learning_rate = 0.0002", "learning_rate = 0.05")):
        assert default in config
        config = config.replace(default, value)
    home.config.write_text(config, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(warm_python))
        train(home, make_rows(32))
        with closing(EventStore.open(home)) as store:
            store.execute(RequestConsolidation(description="first"))
        train(home)
        train(home, make_rows(32, 100))
    return home.root


@pytest.fixture
def consolidated(consolidated_once: Path, tmp_path: Path) -> Home:
    """A copy of it, to change."""
    shutil.copytree(consolidated_once, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture
def train_rows(warm: None) -> Callable[[Home, bytes], None]:
    """`train_rows(home, rows)` trains on them with the real worker."""
    return train
