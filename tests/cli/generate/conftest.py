"""A home with a checkpoint and a version, and one process that generates text for all tests of a module."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cli.commands.init import create_home
from cli.daemon.loop import Daemon
from cli.generate.process import GenerationProcess
from cli.home.event_store import EventStore
from cli.home.paths import Home
from core.commands import RequestConsolidation
from tests.harness.tiny_model import make_rows, make_tiny_model


@pytest.fixture(scope="session")
def consolidated_once(tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> Path:
    """A home with v001 and two checkpoints on it. The learning rate is high, so that the answers differ."""
    home = create_home(tmp_path_factory.mktemp("consolidated") / "home", model="model")
    make_tiny_model(home.root / "model")
    config = home.config.read_text(encoding="utf-8")
    for default, value in (("every_steps = 50", "every_steps = 1"), ("learning_rate = 0.0002", "learning_rate = 0.05")):
        assert default in config
        config = config.replace(default, value)
    home.config.write_text(config, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(warm_python))
        run(home, make_rows(32))
        with closing(EventStore.open(home)) as store:
            store.execute(RequestConsolidation(description="first"))
        run(home)
        run(home, make_rows(32, 100))
    return home.root


def run(home: Home, rows: bytes = b"") -> None:
    """Do what is pending, after the file of these rows."""
    if rows:
        path = home.inbox / "rows.jsonl"
        path.write_bytes(rows)
        os.utime(path, (1.0, 1.0))
    assert Daemon(home, until_idle=True, write=lambda _: None).run() == 0


@pytest.fixture
def consolidated(consolidated_once: Path, tmp_path: Path) -> Home:
    """A copy of it, to change."""
    shutil.copytree(consolidated_once, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture(scope="module")
def process(consolidated_once: Path, warm_module: None) -> Iterator[GenerationProcess]:
    """For the home that no test changes."""
    with GenerationProcess(Home(consolidated_once)) as running:
        yield running


@pytest.fixture
def start(warm: None) -> Iterator[Callable[..., GenerationProcess]]:
    """Starts a separate process for the test."""
    running: list[GenerationProcess] = []

    def begin(home: Home, **how: str) -> GenerationProcess:
        running.append(GenerationProcess(home, **how))
        return running[-1]

    yield begin
    for each in running:
        each.close()
