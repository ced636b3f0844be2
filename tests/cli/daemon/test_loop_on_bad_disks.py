"""The loop of the daemon on disks that are full, fail, or lost files."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.daemon import event_handler
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from core import commands
from events import kinds
from events.codec import kind_of
from events.kinds import AnyEvent
from journal.storage import Storage
from tests.crash.homes import state_of

Run = Callable[..., list[str]]
Drop = Callable[..., Path]
Events = Callable[[], list[AnyEvent]]


def test_a_full_disk_is_waited_out(
    home: Home, drop: Drop, run: Run, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    """ENOSPC on an append: the daemon journals it from the reserve, and continues when there is room."""
    drop("a.jsonl", "ok ok ok ok")
    real, full = Storage.write, {"armed": True}

    def write(self: Storage, fd: int, data: bytes) -> int:
        if full["armed"] and b"step_reached" in bytes(data):
            full["armed"] = False
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, fd, data)

    monkeypatch.setattr(Storage, "write", write)
    run()
    said = [kind_of(event) for event in events()]
    assert said.index("storage_exhausted") < said.index("storage_freed") < said.index("job_trained")
    assert state_of(home).disk.full is None
    assert (home.journal / "reserve").exists()


@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_checkpoint_is_quarantined_at_the_next_start(
    which: int, home: Home, drop: Drop, run: Run, events: Events
) -> None:
    """The head or an older one; its bytes are kept, and the steps that only it held run again."""
    drop("a.jsonl", "ok " * 5)
    run()
    bad = state_of(home).head.checkpoints[which]
    (home.checkpoints / bad.id / "weights").write_text("rot", encoding="utf-8")
    run()
    assert state_of(home).head.global_step == 5
    assert (home.quarantine / bad.id / "weights").read_text(encoding="utf-8") == "rot"
    assert not (home.checkpoints / bad.id).exists()
    (said,) = [event for event in events() if isinstance(event, kinds.CheckpointQuarantined)]
    assert "weights" in said.problem
    assert state_of(home).outcomes.counts.trained == 1


def test_checkpoints_that_are_all_missing_are_a_disk_that_is_missing(home: Home, drop: Drop, run: Run) -> None:
    """Nothing is quarantined for a missing mount; an empty directory confirms that they are lost."""
    drop("a.jsonl", "ok " * 5)
    run()
    head = state_of(home).head.checkpoint
    assert head is not None
    home.checkpoints.rename(home.root / "elsewhere")
    home.checkpoints.mkdir()
    with pytest.raises(UserError, match="none of the 2 committed checkpoints") as caught:
        run()
    assert caught.value.exit_code == 4
    assert state_of(home).head.checkpoint == head
    (home.checkpoints / head.id).mkdir()
    drop("b.jsonl", "ok")
    run()
    assert state_of(home).outcomes.counts.trained == 2
    assert state_of(home).head.global_step == 6


def test_a_disk_that_fails_ends_the_daemon_with_its_own_exit_code(
    home: Home, drop: Drop, run: Run, events: Events
) -> None:
    """Exit code 4 and the reason; the journal says so too, and nothing begins until a person has looked."""
    drop("a.jsonl", "ok ok ok broken")
    with pytest.raises(UserError, match="I/O error") as caught:
        run(until_idle=False)
    assert caught.value.exit_code == 4
    assert [kind_of(event) for event in events()[-3:]] == ["attempt_failed", "daemon_held", "daemon_stopped"]
    assert state_of(home).head.global_step == 3


def test_a_checkpoint_that_is_reported_and_not_there_is_not_committed(
    home: Home, drop: Drop, run: Run, events: Events
) -> None:
    """The disk lost what it took, or the worker lies: either way the daemon stops."""
    drop("a.jsonl", "ok ok phantom ok")
    with pytest.raises(UserError, match="is missing or incomplete: its directory is missing") as caught:
        run(until_idle=False)
    assert caught.value.exit_code == 4
    assert not any(isinstance(event, kinds.CheckpointCommitted) for event in events())


def test_resuming_just_then_begins_no_attempt_on_a_disk_that_fails(
    home: Home, drop: Drop, run: Run, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon is on its way out: the next one begins it."""
    drop("a.jsonl", "ok ok ok broken")
    sweeping = event_handler.sweep  # type: ignore[attr-defined]

    def sweep_and_resume(store: EventStore, *how: object) -> None:
        sweeping(store, *how)
        if store.state.daemon.hold is not None:
            store.execute(commands.Resume())

    monkeypatch.setattr(event_handler, "sweep", sweep_and_resume)
    with pytest.raises(UserError, match="I/O error"):
        run(until_idle=False)
    assert sum(isinstance(event, kinds.AttemptStarted) for event in events()) == 1
