"""One process that generates text for all tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.generate.process import GenerationProcess
from cli.home.paths import Home


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
