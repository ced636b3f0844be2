"""`keepstep backup`: create, verify, restore, cleanup."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cli.daemon.sweep import discard, sweep
from cli.errors import UserError
from cli.home.backups import backup_lock_held, make_backup
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from core.commands import QuarantineCheckpoint, StartDaemon
from core.state import State
from gpu.artifacts import backup
from gpu.artifacts.artifact import CheckpointDirectory
from gpu.artifacts.manifest import MANIFEST
from gpu.errors import CheckpointBroken
from tests.cli.commands.test_checkpoints import keepstep, spoil
from tests.cli.commands.test_versions import _refused
from tests.harness.locks import is_locked

Run = Callable[..., list[str]]


def state(home: Home) -> State:
    return load_state(home)[0].state


@pytest.fixture
def trained(home: Home, drop: Callable[..., Path], run: Run) -> Home:
    drop("a.jsonl", "ok ok ok ok ok")
    run()
    return home


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_backup_is_a_copy_that_shares_nothing(trained: Home) -> None:
    code, said = keepstep(trained, "backup", "create", "--reason", "before I try this")
    assert code == 0
    assert "verified)" in said
    head = state(trained).head.checkpoint
    assert head is not None
    copy = trained.backups / "manual-0001" / head.id
    assert files(copy) == files(trained.checkpoints / head.id)
    assert "before I try this" in keepstep(trained, "backup", "list")[1]
    assert "manual-0001  good" in keepstep(trained, "backup", "verify")[1]


def test_backup_without_training_is_refused(home: Home) -> None:
    refusal = _refused(home, "backup", "create")
    assert isinstance(refusal, UserError)
    assert "nothing was trained since the origin" in refusal.reason
    assert "keepstep add FILE" in refusal.advice
    assert "no backup yet" in keepstep(home, "backup", "list")[1]


def test_a_damaged_head_is_not_backed_up(trained: Home) -> None:
    head = state(trained).head.checkpoint
    assert head is not None
    spoil(trained, head)
    assert "no backup was made" in str(_refused(trained, "backup", "create"))
    assert state(trained).retention.backups == ()


def test_damaged_backup_is_named_and_not_restored(trained: Home, run: Run, drop: Callable[..., Path]) -> None:
    keepstep(trained, "backup", "create")
    drop("b.jsonl", "ok ok ok ok b")
    run()
    (weights,) = (trained.backups / "manual-0001").glob("*/weights")
    weights.write_bytes(b"x" * weights.stat().st_size)
    code, said = keepstep(trained, "backup", "verify")
    assert code == 1
    assert "manual-0001  weights does not have the SHA-256" in said
    assert not json.loads(keepstep(trained, "backup", "verify", "--json")[1])[0]["good"]
    before = state(trained).head.checkpoint
    assert "manual-0001 is damaged" in str(_refused(trained, "backup", "restore", "manual-0001"))
    assert state(trained).head.checkpoint == before


def test_backup_damaged_after_its_restore_is_journaled_is_not_restored(trained: Home) -> None:
    """Its own manifest says that it is whole; the journal has the SHA-256 of the one that was committed."""
    keepstep(trained, "backup", "create")
    head = state(trained).head.checkpoint
    assert head is not None
    manifest = trained.backups / "manual-0001" / head.id / MANIFEST
    manifest.write_bytes(manifest.read_bytes().replace(b'"validation"', b'"vilidation"'))
    place = trained.checkpoints / head.id
    shutil.rmtree(place)
    with pytest.raises(CheckpointBroken, match="another SHA-256"):
        CheckpointDirectory(place).restore(trained.backups / "manual-0001" / head.id, head.manifest_sha256)
    assert not place.exists()


def test_one_that_is_made_while_a_daemon_sweeps_stays(trained: Home) -> None:
    """It did not exist when the sweep started, so it is not a leftover."""
    (trained.checkpoints / "step-00000099-attempt-0009").mkdir()

    def meanwhile(path: Path) -> int | None:
        keepstep(trained, "backup", "create")
        return discard(trained, path)

    with closing(EventStore.open(trained)) as store:
        sweep(store, meanwhile)
    assert not (trained.checkpoints / "step-00000099-attempt-0009").exists()
    assert "manual-0001  good" in keepstep(trained, "backup", "verify")[1]


def test_a_damaged_checkpoint_is_kept_in_quarantine(trained: Home) -> None:
    """A person may look at it."""
    head = state(trained).head.checkpoint
    assert head is not None
    with closing(EventStore.open(trained)) as store:
        store.execute(StartDaemon(pid=1, process_started_at=1.0, boot_id="", host="", keepstep=""))
        store.execute(QuarantineCheckpoint(checkpoint=head.id, problem="a flipped bit"))
        assert sweep(store) == [head.id]
    assert (trained.quarantine / head.id).is_dir()
    assert not (trained.checkpoints / head.id).exists()


@pytest.mark.parametrize("is_lost", [True, False])
def test_what_a_backup_holds_is_gone_on_from_and_the_way_back_stays(
    is_lost: bool, trained: Home, run: Run, drop: Callable[..., Path]
) -> None:
    """Whether the checkpoint is gone or one byte of it has changed."""
    keepstep(trained, "backup", "create")
    first = state(trained).head.checkpoint
    assert first is not None
    drop("b.jsonl", "ok ok ok ok b")
    run()
    second = state(trained).head.checkpoint
    assert second is not None
    shutil.rmtree(trained.checkpoints / first.id, ignore_errors=True)
    if not is_lost:
        shutil.copytree(trained.backups / "manual-0001" / first.id, trained.checkpoints / first.id)
        spoil(trained, first)
    said = keepstep(trained, "backup", "restore", "manual-0001")[1]
    assert f"continues from {first.id} on the origin" in said
    assert files(trained.checkpoints / first.id) == files(trained.backups / "manual-0001" / first.id)
    run()
    assert state(trained).head.global_step == first.global_step
    assert (trained.checkpoints / second.id).is_dir()
    keepstep(trained, "versions", "restore", second.id)
    run()
    assert state(trained).head.global_step == second.global_step


def test_cleanup_deletes_only_with_execute(trained: Home) -> None:
    for _ in range(3):
        keepstep(trained, "backup", "create")
    said = keepstep(trained, "backup", "cleanup", "--retention-days", "0")[1]
    assert "manual-0001 would be deleted" in said
    assert "nothing was deleted" in said
    assert len(state(trained).retention.backups) == 3
    keepstep(trained, "backup", "cleanup", "--retention-days", "0", "--execute")
    assert [path.name for path in trained.backups.iterdir()] == ["manual-0003"]


def test_names_of_backups_that_are_not_there_are_refused(trained: Home) -> None:
    for words in (("verify", "manual-0009"), ("restore", "manual-0009")):
        assert "there is no backup manual-0009" in str(_refused(trained, "backup", *words))


def test_after_a_quarantine_the_new_head_is_backed_up(trained: Home, run: Run) -> None:
    """A disk that spoils one checkpoint may spoil the next."""
    first, head = state(trained).head.checkpoints
    spoil(trained, head)
    said = "\n".join(run())
    assert f"backed up {first.id} as emergency-0001" in said
    (backup,) = state(trained).retention.backups
    assert (backup.id, backup.held.checkpoint.id) == ("emergency-0001", first.id)
    assert len([line for line in run() if "emergency" in line]) == 0


def test_two_backups_at_once_have_two_names(trained: Home) -> None:
    """The second was on its way while the first was made: it does not take the first for what a crash left."""
    with closing(EventStore.open(trained)) as one, closing(EventStore.open(trained)) as other:
        assert make_backup(one, kind="manual", reason="first") == "manual-0001"
        assert make_backup(other, kind="manual", reason="second") == "manual-0002"
    assert {path.name for path in trained.backups.iterdir()} == {"manual-0001", "manual-0002"}


def test_the_type_of_a_backup_is_in_its_name_and_in_the_list(trained: Home) -> None:
    """It can be named by its number."""
    assert keepstep(trained, "backup", "create", "--type", "pre-change")[0] == 0
    assert json.loads(keepstep(trained, "backup", "--json")[1])[0]["type"] == "pre-change"
    assert keepstep(trained, "backup", "verify", "1") == (0, "pre-change-0001  good\n")


def test_a_backup_is_made_by_one_process_while_no_daemon_sweeps(trained: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, locks = backup.back_up, list[bool]()

    def copied(*arguments: Any, **options: Any) -> Any:
        locks.append(is_locked(trained.backup_lock))
        with pytest.raises(UserError, match="another backup is being made"), backup_lock_held(trained):
            pass
        return copy(*arguments, **options)

    monkeypatch.setattr("cli.home.backups.back_up", copied)
    with closing(EventStore.open(trained)) as store:
        make_backup(store, kind="manual", reason="")
    assert locks == [True]
