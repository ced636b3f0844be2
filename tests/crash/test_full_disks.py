"""Daemons and commands on disks that fill up: work waits, says so, and continues by itself when there is room.

The faults are the kernel's own (see `real_disks`), the daemon and the commands are the real ones, the worker is the
slow fake one where nothing depends on torch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.crash.homes import make_home, trained
from tests.crash.on_disk import (
    INODES,
    Running,
    Scene,
    ended_over_storage,
    has_reserve,
    is_plain,
    needs_real_disks,
    plain_home,
    put,
    scene,
    trained_in_peace,
    weights,
)
from tests.crash.real_disks import small_disk, thin_disk
from tests.crash.torture import check

pytestmark = needs_real_disks


@contextmanager
def kept_full(take: Callable[[], None]) -> Iterator[None]:
    """Whatever is given back is taken at once."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(0.01):
            take()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def waits_for_room(here: Scene, daemon: Running) -> None:
    """Everything that people and scripts can see of it."""
    here.until("storage_exhausted is journaled", lambda: here.events("storage_exhausted"))
    here.until("the attempt has ended", lambda: here.events("attempt_failed"))
    assert daemon.alive, here.report()
    assert [event["failure"] for event in here.events("attempt_failed")] == ["disk_full"], here.report()
    said = here.events("storage_exhausted")[-1]
    assert said["message"]
    assert said["wanted_bytes"] >= 0
    shown = here.status()
    assert shown["full"] is not None, here.report()
    assert shown["health"].startswith("waiting for disk space"), shown["health"]
    assert shown["hold"] is None
    assert shown["failed"] == []
    text = here.keepstep("status")
    assert text.returncode == 0
    assert "waiting for disk space" in text.stdout


def waits_quietly(here: Scene, daemon: Running, seconds: float) -> None:
    """Waiting costs nothing: no attempts, hardly a record."""
    before = len(here.records())
    time.sleep(seconds)  # what is not to come can only be waited for
    assert daemon.alive, here.report()
    assert len(here.records()) - before <= 2, here.report()
    assert not here.events("storage_freed"), here.report()


def continues_by_itself(here: Scene, daemon: Running, calm: dict[str, str]) -> None:
    """From the moment that there is room again to the same weights."""
    here.until("storage_freed is journaled", lambda: here.events("storage_freed"), within_s=10.0)
    here.ends_well(daemon)
    assert is_plain(daemon.said), here.report()
    check(here.home)
    assert trained(here.home) == calm
    has_reserve(here.home)
    assert here.keepstep("journal", "verify").returncode == 0, here.report()


@pytest.mark.parametrize("what", ["blocks", "inodes"])
def test_a_disk_that_is_filled_while_training_is_waited_out(what: str, tmp_path: Path, calm: dict[str, str]) -> None:
    """The attempt ends, nothing is abandoned, the status says what is lacking, and room is all that it takes."""
    with small_disk(inodes=INODES if what == "inodes" else 0) as disk:
        home = plain_home(disk.root / "home", keep=100 if what == "blocks" else 2)
        with scene(disk, home, tmp_path) as here:
            daemon = here.at_work()
            with daemon.suspended():  # it could end before the disk is full
                disk.fill() if what == "blocks" else disk.fill_inodes()
            waits_for_room(here, daemon)
            waits_quietly(here, daemon, 2.0)
            disk.free()
            continues_by_itself(here, daemon, calm)


@pytest.mark.long
def test_a_daemon_continues_when_every_block_that_it_frees_is_taken_by_others(
    tmp_path: Path, calm: dict[str, str], record_property: Callable[[str, object], None]
) -> None:
    """Not even the reserve is left to say so with. It waits, or it ends with a message and the next start continues."""
    with small_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            daemon = here.at_work()
            with kept_full(disk.fill):
                time.sleep(6.0)  # as many tries as come to that
                survived = daemon.alive
                if survived:
                    assert here.status()["health"].startswith("waiting for disk space"), here.report()
            disk.free()
            record_property("without a reserve, the daemon", "waits" if survived else "ends")
            if not survived:
                ended_over_storage(here, daemon)
                daemon = here.start()
            here.ends_well(daemon)
            check(home)
            assert trained(home) == calm
            has_reserve(home)


def test_a_daemon_that_is_started_on_a_full_disk_continues_when_there_is_room(
    tmp_path: Path, calm: dict[str, str], record_property: Callable[[str, object], None]
) -> None:
    """There is not room for a lock file or a log, let alone a record."""
    with small_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            with kept_full(disk.fill):
                daemon = here.start()
                time.sleep(4.0)  # it can say nothing, and what it does is its own affair: time to start, and to fail
                survived = daemon.alive
            disk.free()
            record_property("started on a full disk, the daemon", "waits" if survived else "ends")
            if not survived:
                ended_over_storage(here, daemon)
                daemon = here.start()
            here.ends_well(daemon)
            check(home)
            assert trained(home) == calm
            has_reserve(home)


def test_a_daemon_that_waits_from_its_start_continues_by_itself(tmp_path: Path, calm: dict[str, str]) -> None:
    """Full before the daemon came, with the reserve of an earlier one still there to speak with."""
    with small_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            first = here.at_work()
            first.end()
            disk.fill()
            daemon = here.start()
            here.until("it says that it waits, or ends", lambda: not daemon.alive or waits(here))
            assert daemon.alive, here.report()
            disk.free()
            here.ends_well(daemon)
            assert is_plain(daemon.said), here.report()
            check(home)
            assert trained(home) == calm
            has_reserve(home)


def waits(here: Scene) -> bool:
    """Whether the status says so by now."""
    done = here.keepstep("status")
    return "waiting for disk space" in done.stdout


def test_a_file_that_arrives_on_a_full_disk_is_trained_when_there_is_room(tmp_path: Path) -> None:
    """Renamed into the inbox, which takes no room; all that follows does."""
    with small_disk() as disk:
        home = plain_home(disk.root / "home")
        late = put(disk.root / "late.jsonl", steps=10)
        content = late.read_bytes()
        with scene(disk, home, tmp_path) as here:
            daemon = here.start(until_idle=False)
            here.until("both files are trained", lambda: len(here.events("job_trained")) == 2)
            with kept_full(disk.fill):
                late.rename(home.inbox / "late.jsonl")
                time.sleep(4.0)  # it can say nothing: time to see the file, and to try
                assert daemon.alive, here.report()
                where = [path for path in home.root.rglob("*") if path.is_file() and path.read_bytes() == content]
                assert len(where) == 1, f"the file is at {where}\n{here.report()}"
            disk.free()
            here.until("the third is trained", lambda: len(here.events("job_trained")) == 3, within_s=30.0)
            assert is_plain(daemon.said), here.report()
            assert here.keepstep("stop").returncode == 0
            here.ends_well(daemon)
            check(home)


@pytest.mark.parametrize("what", ["blocks", "inodes"])
def test_add_on_a_full_disk_is_refused_and_leaves_no_trace(what: str, tmp_path: Path) -> None:
    """Exit code 4 and a sentence; the file that was to be added is as it was, and can be added later."""
    file = put(tmp_path / "mine.jsonl", steps=2000)
    content = file.read_bytes()
    with small_disk(inodes=INODES if what == "inodes" else 0) as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            disk.fill() if what == "blocks" else disk.fill_inodes()
            done = here.keepstep("add", str(file))
            assert done.returncode == 4, f"{done.returncode}: {done.stdout}{done.stderr}\n{here.report()}"
            assert is_plain(done.stderr), done.stderr
            assert "space" in done.stderr or "full" in done.stderr or "room" in done.stderr, done.stderr
            assert file.read_bytes() == content
            assert not here.events("file_enqueued")
            disk.free()
            assert not list((home.data / ".arriving").glob("*/*"))
            done = here.keepstep("add", str(file))
            assert done.returncode == 0, done.stderr
            assert [event["name"] for event in here.events("file_enqueued")] == ["mine.jsonl"]


def test_a_daemon_outlives_its_own_output(tmp_path: Path, calm: dict[str, str]) -> None:
    """`keepstep run >> home/logs/run.log` is what people do; that file is on the full disk too."""
    with small_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            daemon = here.at_work(log=home.logs / "run.log")
            disk.fill()
            here.until("the attempt has ended", lambda: here.events("attempt_failed"))
            waits_quietly(here, daemon, 2.0)
            disk.free()
            continues_by_itself(here, daemon, calm)


@pytest.mark.long
def test_a_full_pool_under_a_disk_that_shows_room_is_not_hammered(
    tmp_path: Path, calm: dict[str, str], record_property: Callable[[str, object], None]
) -> None:
    """Only a sync finds out, and df knows nothing of it. Trying is all that is left, at a decent pace."""
    with thin_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            daemon = here.at_work()
            attempts = len(here.events("attempt_started"))
            disk.exhaust()
            time.sleep(8.0)  # the pace of its tries is what is asked
            survived = daemon.alive
            record_property("on a full pool, the daemon", "waits" if survived else "ends")
            tried = len(here.events("attempt_started")) - attempts
            assert tried <= 8, f"{tried} attempts in 8 s\n{here.report()}"
            assert not here.events("job_failed"), here.report()
            assert not here.events("daemon_held"), here.report()
            disk.extend()
            if not survived:
                ended_over_storage(here, daemon)
                daemon = here.start()
            here.ends_well(daemon)
            check(home)
            assert trained(home) == calm


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", ["blocks", "inodes"])
def test_real_training_on_a_disk_that_fills_up_ends_with_the_same_bytes(what: str, tmp_path: Path) -> None:
    """The same with torch: weights and optimizer state equal those of a run that always had room."""
    quiet = trained_in_peace(tmp_path / "quiet")
    with small_disk(inodes=INODES if what == "inodes" else 0) as disk:
        home = make_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            daemon = here.start(real=True)
            here.until("a checkpoint is committed", lambda: here.events("checkpoint_committed"), within_s=90.0)
            disk.fill() if what == "blocks" else disk.fill_inodes()
            waits_for_room(here, daemon)
            waits_quietly(here, daemon, 3.0)
            disk.free()
            here.until("storage_freed is journaled", lambda: here.events("storage_freed"))
            here.ends_well(daemon, within_s=120.0)
            assert is_plain(daemon.said), here.report()
            check(home)
            assert weights(home) == weights(quiet)
            has_reserve(home)
