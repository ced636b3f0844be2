"""Real file systems under real faults: full, thin, frozen, dying. What was acknowledged is kept, and work goes on.

The faults are the kernel's own (see `disks`), the daemon and the commands are the real ones, the worker is a plain
one where nothing hangs on torch. Only root may mount; elsewhere all of this is skipped, and says why.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cli.home import Home
from journal import Journal, Line, read_line
from journal.errors import NoSpace, StorageFailed
from journal.log import RESERVE_BYTES
from tests.crash.disks import Disk, MortalDisk, clear_stale, mortal_disk, small_disk, thin_disk, why_not
from tests.crash.homes import learned, make_home
from tests.crash.on_disk import ROOT, Running, Scene, is_plain, plain_home, put, scene
from tests.crash.torture import check

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=f"no real disk to break: {why_not()}"),
    pytest.mark.timeout(180),
]

INODES = 160
"""Few enough to be used up; a home and its training need some sixty."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is learned on a healthy disk."""
    root = tmp_path_factory.mktemp("calm")
    home = plain_home(root / "home")
    daemon = Running(home, root / "run.log")
    try:
        assert daemon.process.wait(timeout=60) == 0, daemon.said
    finally:
        daemon.end()
    check(home)
    return learned(home)


# -- the disks themselves: what the table in `disks` says -----------------------------------------------------------


def outcome(action: Callable[[], object]) -> str:
    """The name of the error, or "well"."""
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "well"


def appended(path: Path, *, syncs: int = 1) -> list[str]:
    """What a write of some blocks, and each sync after it, comes to."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        written = outcome(lambda: [os.write(fd, b"x" * 40_000) for _ in range(2)])
        return [written, *(outcome(lambda: os.fdatasync(fd)) for _ in range(syncs))]
    finally:
        os.close(fd)


def test_a_full_disk_refuses_writes_and_heals() -> None:
    """The plain case, and the only one in which the free space that is shown tells the truth."""
    with small_disk() as disk:
        file = disk.root / "file"
        assert appended(file) == ["well", "well"]
        disk.fill()
        assert os.statvfs(disk.root).f_bavail == 0
        assert appended(file)[0] == "ENOSPC"
        assert appended(disk.root / "other")[0] == "ENOSPC"
        disk.free()
        assert appended(file) == ["well", "well"]


def test_a_disk_without_inodes_takes_bytes_and_no_names() -> None:
    """Files that are there can grow; what is written under a temporary name first cannot begin."""
    with small_disk(inodes=INODES) as disk:
        file = disk.root / "file"
        assert appended(file) == ["well", "well"]
        disk.fill_inodes()
        assert appended(file) == ["well", "well"]
        assert outcome((disk.root / "other").touch) == "ENOSPC"
        assert os.statvfs(disk.root).f_bavail > 1000
        disk.free()
        assert outcome((disk.root / "other").touch) == "well"


def test_a_thin_disk_takes_the_write_and_loses_it_at_the_sync() -> None:
    """The second sync succeeds: who tries again believes that the data is there. And there seems to be room."""
    with thin_disk() as disk:
        file = disk.root / "file"
        assert appended(file) == ["well", "well"]
        disk.exhaust()
        assert appended(file, syncs=2) == ["well", "ENOSPC", "well"]
        assert os.statvfs(disk.root).f_bavail > 1000
        disk.extend()
        assert appended(disk.root / "other") == ["well", "well"]


def test_a_device_that_stops_writing_makes_the_file_system_read_only() -> None:
    """EIO at the sync, then EROFS for every change; what was synced is there on the next device."""
    with mortal_disk() as disk:
        file = disk.root / "file"
        assert appended(file) == ["well", "well"]
        disk.stop_writing()
        assert appended(file) == ["well", "EIO"]
        disk.become_read_only()
        assert outcome(lambda: file.open("ab").close()) == "EROFS"
        assert file.read_bytes()[:80_000] == b"x" * 80_000
        disk.replace_device()
        assert file.read_bytes()[:80_000] == b"x" * 80_000
        assert appended(file) == ["well", "well"]


def test_a_device_that_loses_a_region_says_so_once() -> None:
    """EIO at the first sync, success at the second, and no other sign of it."""
    with mortal_disk() as disk:
        file = disk.root / "file"
        assert appended(file) == ["well", "well"]
        disk.lose_the_end()
        assert appended(file, syncs=2) == ["well", "EIO", "well"]
        assert outcome((disk.root / "other").touch) == "well"
        disk.replace_device()
        assert file.read_bytes()[:80_000] == b"x" * 80_000


def test_a_file_that_cannot_be_read_is_the_only_one() -> None:
    """Everything beside it can be read and written."""
    with mortal_disk() as disk:
        bad, good = disk.root / "bad", disk.root / "good"
        bad.write_bytes(b"b" * 150_000)
        good.write_bytes(b"g" * 150_000)
        disk.lose_file(bad)
        assert outcome(bad.read_bytes) == "EIO"
        assert good.read_bytes() == b"g" * 150_000
        assert appended(good) == ["well", "well"]
        disk.replace_device()
        assert bad.read_bytes() == b"b" * 150_000


def test_what_a_killed_run_left_mounted_is_cleared() -> None:
    """No test run has to be tidied up by hand."""
    program = """
import os, signal
from tests.crash.disks import small_disk
with small_disk() as disk:
    print(disk.root, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    left = Path(done.stdout.strip())
    assert done.returncode == -9, done.stderr
    assert left.is_mount()
    clear_stale()
    assert not left.exists()


# -- the journal alone ----------------------------------------------------------------------------------------------


def event(number: int) -> bytes:
    """Some hundred bytes: a block is full after a few dozen."""
    return b'{"kind":"test","number":%d,"padding":"%s"}' % (number, b"." * 300)


def make_journal(disk: Disk) -> Journal[Line]:
    """A journal at the top of the disk, read to its end."""
    if not (disk.root / "journal").exists():
        Journal.create(disk.root / "journal", at="2026-01-01T00:00:00Z", first=[event(0)])
    return open_journal(disk)


def open_journal(disk: Disk) -> Journal[Line]:
    return Journal.open(disk.root / "journal", decode=read_line)


def numbers(disk: Disk) -> list[int]:
    """What the journal holds, opened anew."""
    with closing(open_journal(disk)) as journal:
        return [json.loads(record.event)["number"] for batch in journal.read() for record in batch]


def append_until_failure(journal: Journal[Line], first: int, *, most: int = 200) -> tuple[int, Exception]:
    """How many were acknowledged up to the first failure, and that failure."""
    for number in range(first, first + most):
        try:
            with journal.transaction() as transaction:
                transaction.append([event(number)], at="2026-01-01T00:00:00Z")
        except StorageFailed as error:
            return number, error
    raise AssertionError(f"{most} appends, and no failure")


@pytest.mark.parametrize("kind", ["full", "thin"])
def test_a_journal_without_room_keeps_what_it_acknowledged_and_goes_on(kind: str) -> None:
    """Neither more nor less than what was acknowledged, whether the write or only the sync finds no room."""
    with small_disk() if kind == "full" else thin_disk() as disk:
        with closing(make_journal(disk)) as journal:
            list(journal.read())
            with journal.transaction() as transaction:
                transaction.append([event(1)], at="2026-01-01T00:00:00Z")
            disk.fill() if kind == "full" else disk.exhaust()  # type: ignore[attr-defined]
            first = 2
            while kind == "full" and not journal.reserve_is_spent:
                with journal.transaction() as transaction:
                    transaction.append([event(first)], at="2026-01-01T00:00:00Z")
                first += 1
            if kind == "full":
                disk.fill()  # the room that the reserve gave is taken by somebody else
            after, error = append_until_failure(journal, first)
            assert isinstance(error, NoSpace)
            again, _ = append_until_failure(journal, after, most=1)
            assert again == after
            disk.free() if kind == "full" else disk.extend()  # type: ignore[attr-defined]
            with journal.transaction() as transaction:
                transaction.append([event(after)], at="2026-01-01T00:00:00Z")
        disk.unmount()
        disk.check()
        disk.mount()
        assert numbers(disk) == list(range(after + 1))


@pytest.mark.parametrize("fault", ["stop_writing", "lose_the_end"])
def test_a_journal_on_a_dying_device_is_poisoned_and_whole_on_the_next(fault: str) -> None:
    """A failed sync is never tried again; on the new device, everything acknowledged is there."""
    with mortal_disk() as disk:
        with closing(make_journal(disk)) as journal:
            list(journal.read())
            for number in range(1, 30):
                with journal.transaction() as transaction:
                    transaction.append([event(number)], at="2026-01-01T00:00:00Z")
            getattr(disk, fault)()
            after, error = append_until_failure(journal, 30)
            assert not isinstance(error, NoSpace)
            with pytest.raises(StorageFailed), journal.transaction():
                pass
        disk.replace_device()
        found = numbers(disk)
        assert found[:after] == list(range(after))
        assert found[after:] in ([], [after])  # what was not acknowledged may be there


# -- full, and freed again ------------------------------------------------------------------------------------------


def weights(home: Home) -> dict[str, str]:
    """What was learned, without the files that name the place of the base model, which is another on each disk."""
    return {name: digest for name, digest in learned(home).items() if name.endswith(".safetensors")}


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
    assert shown["health"].startswith("waiting for room"), shown["health"]
    assert shown["hold"] is None
    assert shown["failed"] == []
    text = here.keepstep("status")
    assert text.returncode == 0
    assert "waiting for room" in text.stdout


def waits_quietly(here: Scene, daemon: Running, seconds: float) -> None:
    """Waiting costs nothing: no attempts, hardly a record."""
    before = len(here.records())
    time.sleep(seconds)
    assert daemon.alive, here.report()
    assert len(here.records()) - before <= 2, here.report()
    assert not here.events("storage_freed"), here.report()


def goes_on_by_itself(here: Scene, daemon: Running, calm: dict[str, str]) -> None:
    """From the moment that there is room again to the same weights."""
    here.until("storage_freed is journaled", lambda: here.events("storage_freed"), within_s=10.0)
    here.ends_well(daemon)
    assert is_plain(daemon.said), here.report()
    check(here.home)
    assert learned(here.home) == calm
    has_reserve(here.home)
    assert here.keepstep("journal", "verify").returncode == 0, here.report()


def has_reserve(home: Home) -> None:
    """Real blocks, not only a size."""
    found = (home.journal / "reserve").stat()
    assert found.st_size >= RESERVE_BYTES
    assert found.st_blocks * 512 >= RESERVE_BYTES


@pytest.mark.parametrize("what", ["blocks", "inodes"])
def test_a_disk_that_is_filled_while_training_is_waited_out(what: str, tmp_path: Path, calm: dict[str, str]) -> None:
    """The attempt ends, nothing is given up, the status says what is lacking, and room is all that it takes."""
    with small_disk(inodes=INODES if what == "inodes" else 0) as disk:
        home = plain_home(disk.root / "home", keep=100 if what == "blocks" else 2)
        with scene(disk, home, tmp_path) as here:
            daemon = here.start()
            here.until("some steps are committed", lambda: here.steps() >= 6)
            disk.fill() if what == "blocks" else disk.fill_inodes()
            waits_for_room(here, daemon)
            waits_quietly(here, daemon, 2.0)
            disk.free()
            goes_on_by_itself(here, daemon, calm)


@pytest.mark.long
def test_a_daemon_goes_on_when_every_block_that_it_frees_is_taken_by_others(
    tmp_path: Path, calm: dict[str, str], record_property: Callable[[str, object], None]
) -> None:
    """Not even the reserve is left to say so with. It waits; or it ends with a sentence, and the next start goes on."""
    with small_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            daemon = here.start()
            here.until("some steps are committed", lambda: here.steps() >= 6)
            with kept_full(disk.fill):
                time.sleep(6.0)
                survived = daemon.alive
                if survived:
                    assert here.status()["health"].startswith("waiting for room"), here.report()
            disk.free()
            record_property("without a reserve, the daemon", "waits" if survived else "ends")
            if not survived:
                ended_over_storage(here, daemon)
                daemon = here.start()
            here.ends_well(daemon)
            check(home)
            assert learned(home) == calm
            has_reserve(home)


def test_a_daemon_that_is_started_on_a_full_disk_goes_on_when_there_is_room(
    tmp_path: Path, calm: dict[str, str], record_property: Callable[[str, object], None]
) -> None:
    """There is not room for a lock file or a log, let alone a record."""
    with small_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            with kept_full(disk.fill):
                daemon = here.start()
                time.sleep(4.0)
                survived = daemon.alive
            disk.free()
            record_property("started on a full disk, the daemon", "waits" if survived else "ends")
            if not survived:
                ended_over_storage(here, daemon)
                daemon = here.start()
            here.ends_well(daemon)
            check(home)
            assert learned(home) == calm
            has_reserve(home)


def test_a_daemon_that_waits_from_its_start_goes_on_by_itself(tmp_path: Path, calm: dict[str, str]) -> None:
    """Full before the daemon came, with the reserve of an earlier one still there to speak with."""
    with small_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            first = here.start()
            here.until("some steps are committed", lambda: here.steps() >= 6)
            first.end()
            disk.fill()
            daemon = here.start()
            here.until("it says that it waits, or ends", lambda: not daemon.alive or waits(here))
            assert daemon.alive, here.report()
            disk.free()
            here.ends_well(daemon)
            assert is_plain(daemon.said), here.report()
            check(home)
            assert learned(home) == calm
            has_reserve(home)


def waits(here: Scene) -> bool:
    """Whether the status says so by now."""
    done = here.keepstep("status")
    return "waiting for room" in done.stdout


def test_a_file_that_arrives_on_a_full_disk_is_learned_when_there_is_room(tmp_path: Path) -> None:
    """Renamed into the inbox, which takes no room; all that follows does."""
    with small_disk() as disk:
        home = plain_home(disk.root / "home")
        late = put(disk.root / "late.jsonl", steps=10)
        content = late.read_bytes()
        with scene(disk, home, tmp_path) as here:
            daemon = here.start(until_idle=False)
            here.until("both files are learned", lambda: len(here.events("job_trained")) == 2)
            with kept_full(disk.fill):
                late.rename(home.inbox / "late.jsonl")
                time.sleep(4.0)
                assert daemon.alive, here.report()
                where = [path for path in home.root.rglob("*") if path.is_file() and path.read_bytes() == content]
                assert len(where) == 1, f"the file is at {where}\n{here.report()}"
            disk.free()
            here.until("the third is learned", lambda: len(here.events("job_trained")) == 3, within_s=30.0)
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
            daemon = here.start(log=home.logs / "run.log")
            here.until("some steps are committed", lambda: here.steps() >= 6)
            disk.fill()
            here.until("the attempt has ended", lambda: here.events("attempt_failed"))
            waits_quietly(here, daemon, 2.0)
            disk.free()
            goes_on_by_itself(here, daemon, calm)


@pytest.mark.long
def test_a_full_pool_behind_a_disk_that_shows_room_is_not_hammered(
    tmp_path: Path, calm: dict[str, str], record_property: Callable[[str, object], None]
) -> None:
    """Only a sync finds out, and df knows nothing of it. Trying is all that is left, at a decent pace."""
    with thin_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            daemon = here.start()
            here.until("some steps are committed", lambda: here.steps() >= 6)
            attempts = len(here.events("attempt_started"))
            disk.exhaust()
            time.sleep(8.0)
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
            assert learned(home) == calm


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", ["blocks", "inodes"])
def test_real_training_on_a_disk_that_fills_up_ends_with_the_same_bytes(what: str, tmp_path: Path) -> None:
    """The same with torch: weights and optimizer state equal those of a run that always had room."""
    quiet = make_home(tmp_path / "quiet")
    daemon = Running(quiet, tmp_path / "quiet.log", real=True)
    assert daemon.process.wait(timeout=240) == 0, daemon.said
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


# -- devices that die -----------------------------------------------------------------------------------------------


def ended_over_storage(here: Scene, daemon: Running) -> None:
    """Exit code 4, and a sentence for people."""
    code = here.ends(daemon, within_s=30.0)
    assert code == 4, f"the daemon ended with {code}\n{here.report()}"
    assert is_plain(daemon.said), here.report()
    assert "keepstep: " in daemon.said, here.report()


def proven(here: Scene) -> list[dict[str, object]]:
    """Every record that another one names as durable: what was certainly acknowledged."""
    records = here.records()
    durable = max(record["durable"] for record in records)
    return [record for record in records if record["seq"] <= durable]


def survives_the_device(here: Scene, disk: MortalDisk, fault: Callable[[], None], *, real: bool = False) -> None:
    """The device fails while it trains, and is replaced; the next daemon goes on where the journal ends."""
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
            assert learned(home) == calm


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
            assert learned(home) == calm


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", ["stop_writing", "lose_the_end"])
def test_real_training_on_a_device_that_dies_ends_with_the_same_bytes(fault: str, tmp_path: Path) -> None:
    """The same with torch."""
    quiet = make_home(tmp_path / "quiet")
    daemon = Running(quiet, tmp_path / "quiet.log", real=True)
    assert daemon.process.wait(timeout=240) == 0, daemon.said
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
    """Nothing is taken for dead; the status can be asked meanwhile; and then it goes on as if nothing had been."""
    with small_disk() as disk:
        home = plain_home(disk.root / "home")
        with scene(disk, home, tmp_path) as here:
            daemon = here.start()
            here.until("some steps are committed", lambda: here.steps() >= 6)
            disk.freeze()
            try:
                time.sleep(3.0)
                assert here.status()["alive"]
            finally:
                disk.thaw()
            here.ends_well(daemon)
            assert not here.events("attempt_failed"), here.report()
            check(home)
            assert learned(home) == calm


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
            assert learned(home) == calm
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
            first = here.start()
            here.until("some steps are committed", lambda: here.steps() >= 6)
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
            assert learned(home) == calm


def test_a_journal_whose_end_was_lost_behind_a_witness_is_refused(tmp_path: Path) -> None:
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
