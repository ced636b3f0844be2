"""For all tests: their order if several processes share them, and golden files.

A golden file is what a test compares with; it is rewritten only by `pytest --update-golden`.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.warm_python import WarmPython


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files; look at the diff")
    parser.addoption(
        "--write-drills", action="store_true", help="write what the drills show into docs/explanation/supervision.md"
    )


def pytest_configure() -> None:
    """Under nohup, SIGHUP is ignored, and processes that tests start would inherit that. A handler that does nothing
    keeps the runner alive as well, and is reset to the default in the processes that it starts."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


SLOW = ("crash", "drills", "simulation", "cli", "gpu")
"""Folders whose tests start processes, the slowest first."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests (`make test`), what takes longest begins first: no process is then left
    alone with a slow file when the others are done."""
    if hasattr(config, "workerinput"):
        folders = [*SLOW, ""]
        items.sort(key=lambda item: folders.index(name if (name := _folder(item)) in SLOW else ""))


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector of garbage need not walk over all of torch at each of its rounds."""
    gc.collect()
    gc.freeze()


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compare a text with a golden file, or rewrite the file if the flag was given."""

    def check(path: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path.name} is missing; `pytest --update-golden` writes it"
        assert text == path.read_text(encoding="utf-8"), f"{path.name} differs; if that is meant, --update-golden"

    return check


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Python for `sys.executable` in which modules of `gpu` start without importing torch again."""
    warm = WarmPython(tmp_path_factory.mktemp("python"))
    yield warm.executable
    warm.close()


@pytest.fixture
def warm(warm_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this test, a process that runs a module of `gpu` is forked from one that has torch."""
    monkeypatch.setattr(sys, "executable", str(warm_python))


@pytest.fixture(scope="module")
def warm_module(warm_python: Path) -> Iterator[None]:
    """The same in all tests and fixtures of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(warm_python))
        yield
