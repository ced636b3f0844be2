"""Views are written by one process at a time."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cli.home.event_store import EventStore
from cli.home.paths import Home
from projections.machine import read_machine, write_machine
from tests.harness.locks import is_locked
from tests.projections.test_machine import VIEW


def test_the_view_of_the_machine_is_written_while_no_command_writes(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`keepstep doctor --fix` deletes files that are half written, under the same lock."""
    locks: list[bool] = []

    def written(path: Path, *arguments: Any, **options: Any) -> None:
        locks.append(is_locked(home.journal / "lock"))
        write_machine(path, *arguments, **options)

    monkeypatch.setattr("cli.home.event_store.write_machine", written)
    with closing(EventStore.open(home)) as store:
        store.write_machine_view(VIEW)
    assert locks == [True]
    assert read_machine(home.machine) == VIEW
