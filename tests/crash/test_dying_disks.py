"""Daemons and commands on devices that die, hang, or cannot be read: an exit code, a sentence, and nothing lost."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.homes import make_home, trained
from tests.crash.on_disk import (
    Scene,
    ended_over_storage,
    is_plain,
    needs_real_disks,
    plain_home,
    put,
    scene,
    trained_in_peace,
    weights,
)
from tests.crash.real_disks import MortalDisk, mortal_disk, small_disk
from tests.crash.torture import check

pytestmark = needs_real_disks


def proven(here: Scene) -> list[dict[str, object]]:
    """Every record that another one names as durable: what was certainly acknowledged."""
    records = here.records()
    durable = max(record["durable"] for record in records)
    return [record for record in records if record["seq"] <= durable]


def survives_the_device(here: Scene, disk: MortalDisk, fault: Callable[[], None], *, real: bool = False) -> None:
    """The device fails while it trains, and is replaced; the next daemon continues where the journal ends."""
    daemon = here.start(real=real)
    here.until("a checkpoint is committed", lambda: here.events("checkpoint_committed"), within_s=90.0)
    before = proven(here)
    fault()
    ended_over_storage(here, daemon)
    acknowledged = proven(here)
    assert len(acknowledged) >= len(before)
    disk.replace_device()
    assert here.records()[: len(acknowledged)] == acknowledged, here.report()
    daemon = here.start(real=real)
    here.ends_well(daemon, within_s=120.0)
    check(here.home)


@pytest.mark.parametrize("fault", ["stop_writing", "lose_the_end"])
def test_a_device_that_dies_ends_the_daemon_and_costs_nothing_that_was_acknowledged(
    fault: str, tmp_path: Path, calm: dict[str, str]
) -> None:
    """Exit code 4 with a reason; on the next device, the next start ends with the same weights."""
    with mortal_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            survives_the_device(here, disk, getattr(disk, fault))
            assert trained(home) == calm


@pytest.mark.parametrize("fault", ["stop_writing", "lose_the_end"])
def test_a_daemon_that_is_started_on_a_dying_device_says_so(fault: str, tmp_path: Path, calm: dict[str, str]) -> None:
    """The first thing that it does fails: the same sentence as later, not the trouble of a shell that half stands."""
    with mortal_disk() as disk:
        home = plain_home(disk.root / "home")
        os.sync()  # what a person put there was on disk long before
        with scene(disk, home, tmp_path) as here:
            getattr(disk, fault)()
            ended_over_storage(here, here.start())
            disk.replace_device()
            here.ends_well(here.start())
            check(home)
            assert trained(home) == calm


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", ["stop_writing", "lose_the_end"])
def test_real_training_on_a_device_that_dies_ends_with_the_same_bytes(fault: str, tmp_path: Path) -> None:
    """The same with torch."""
    quiet = trained_in_peace(tmp_path / "quiet")
    with mortal_disk() as disk:
        home = make_home(disk.root / "home")
        os.sync()  # the model is a person's, and was on disk long before
        with scene(disk, home, tmp_path) as here:
            survives_the_device(here, disk, getattr(disk, fault), real=True)
            assert weights(home) == weights(quiet)


def test_commands_on_a_read_only_disk_say_so(tmp_path: Path) -> None:
    """Reading works; what would change something ends with exit code 4 and a sentence."""
    file = put(tmp_path / "mine.jsonl", steps=10)
    with mortal_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            disk.become_read_only()
            assert here.status()["queue"]["waiting"] == 0
            for arguments in (["add", str(file)], ["pause"], ["run", "--until-idle"]):
                done = here.keepstep(*arguments)
                assert done.returncode == 4, f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
                assert is_plain(done.stderr), done.stderr
                assert "read-only" in done.stderr.lower(), done.stderr


def test_a_disk_that_hangs_is_waited_for(tmp_path: Path, calm: dict[str, str]) -> None:
    """Nothing is taken for dead; the status can be asked meanwhile; and then it continues as if nothing had been."""
    with small_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            daemon = here.at_work()
            disk.freeze()
            try:
                time.sleep(3.0)  # so long does the disk hang
                assert here.status()["alive"]
            finally:
                disk.thaw()
            here.ends_well(daemon)
            assert not here.events("attempt_failed"), here.report()
            check(home)
            assert trained(home) == calm


# -- what cannot be read --------------------------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_read_is_named_and_kept(tmp_path: Path, calm: dict[str, str]) -> None:
    """Its steps are run again from the one before; its bytes are there if the disk ever gives them back."""
    with mortal_disk() as disk:
        home = plain_home(disk.root / "home")
        second = disk.root / "second.jsonl"
        (home.inbox / "second.jsonl").rename(second)
        with scene(disk, home, tmp_path) as here:
            here.ends_well(here.start())
            head = here.events("checkpoint_committed")[-1]["checkpoint"]
            weights = home.checkpoints / head / "weights.safetensors"
            digest = hashlib.sha256(weights.read_bytes()).hexdigest()
            disk.lose_file(weights)
            second.rename(home.inbox / "second.jsonl")
            daemon = here.start()
            here.ends_well(daemon)
            assert [event["checkpoint"] for event in here.events("checkpoint_quarantined")] == [head], here.report()
            assert head in daemon.said, here.report()
            assert trained(home) == calm
            disk.replace_device()
            kept = home.quarantine / head / "weights.safetensors"
            assert hashlib.sha256(kept.read_bytes()).hexdigest() == digest


def test_a_journal_that_cannot_be_read_stops_everything_and_is_not_touched(
    tmp_path: Path, calm: dict[str, str]
) -> None:
    """A read error is no verdict about what is written: exit code 4, the file named, and not a byte changed."""
    with mortal_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            first = here.at_work()
            first.end()
            shutil.rmtree(home.status.parent)  # no snapshot: everything has to be read
            segment = home.journal / "00000001.jsonl"
            content, names = segment.read_bytes(), sorted(home.journal.iterdir())
            disk.lose_file(segment)
            daemon = here.start()
            ended_over_storage(here, daemon)
            assert segment.name in daemon.said, here.report()
            done = here.keepstep("journal", "verify")
            assert done.returncode == 4, f"{done.returncode}: {done.stdout}{done.stderr}"
            assert is_plain(done.stderr), done.stderr
            assert sorted(home.journal.iterdir()) == names
            disk.replace_device()
            assert segment.read_bytes() == content
            here.ends_well(here.start())
            check(home)
            assert trained(home) == calm


def test_a_journal_whose_end_was_lost_after_a_witness_is_refused(tmp_path: Path) -> None:
    """A device that lied about a sync: what came back is shorter than what the status file has seen."""
    with mortal_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            here.ends_well(here.start())
            segment = home.journal / "00000001.jsonl"
            with segment.open("rb+") as file:
                file.truncate(segment.stat().st_size // 2)
            daemon = here.start()
            assert here.ends(daemon) == 3, here.report()
            assert is_plain(daemon.said), here.report()
            assert segment.name in daemon.said
