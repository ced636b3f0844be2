"""For all tests: their order if several processes share them, and golden files.

A golden file is what a test compares with; it is rewritten only by `pytest --update-golden`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files; look at the diff")
    parser.addoption(
        "--write-drills", action="store_true", help="write what the drills show into docs/explanation/supervision.md"
    )


SLOW = ("crash", "drills", "simulation", "cli", "gpu")
"""Folders whose tests start processes, the slowest first."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the tests (`make test`), what takes longest begins first: no process is then left
    alone with a slow file when the others are done."""
    if hasattr(config, "workerinput"):
        folders = [*SLOW, ""]
        items.sort(key=lambda item: folders.index(name if (name := _folder(item)) in SLOW else ""))


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
