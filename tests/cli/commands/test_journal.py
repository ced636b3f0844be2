"""The journal's commands: what they hold while they write, and what they say of damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.commands.journal import app
from cli.home.event_store import EventStore
from cli.home.paths import Home
from journal.errors import LockBusy
from journal.lock import AppendLock
from journal.log import LOCK_NAME
from journal.storage import REAL


def test_replay_writes_the_views_while_nobody_can_append(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a daemon that just then shows something newer would have it overwritten with something older."""
    free: list[str] = []

    def watched(name: str) -> None:
        write = getattr(EventStore, name)

        def watching(store: EventStore) -> None:
            lock = AppendLock(REAL, store.home.journal / LOCK_NAME, timeout_s=0.0)
            try:
                with lock:
                    free.append(name)
            except LockBusy:
                pass
            finally:
                lock.close()
            write(store)

        monkeypatch.setattr(EventStore, name, watching)

    watched("write_status")
    watched("save_snapshot")
    ended = CliRunner().invoke(app, ["replay", "--home", str(home.root)])
    assert ended.exit_code == 0, ended.output
    assert free == []


def test_a_lost_record_that_was_spoiled_is_not_said_to_be_readable(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]]
) -> None:
    """It still parses, as a record of another kind of thing: only its checksum tells."""
    drop("a.jsonl", "ok ok ok ok")
    run()
    segment = home.journal / "00000001.jsonl"
    lines = segment.read_bytes().split(b"\n")
    steps = [at for at, line in enumerate(lines) if b"step_reached" in line]
    lines[steps[0]] = lines[steps[0]].replace(b"step_reached", b"step_reachet")
    lines[steps[2]] = lines[steps[2]].replace(b"step_reached", b"step_reechad")
    segment.write_bytes(b"\n".join(lines))
    home.snapshot.unlink()
    ended = CliRunner().invoke(app, ["verify", "--home", str(home.root)])
    assert ended.exit_code == 3
    assert "Readable" in ended.output
    assert "step_reached" in ended.output
    assert "step_reechad" not in ended.output
