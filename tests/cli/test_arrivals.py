"""How a file becomes a job: from every place where a crash can leave it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from random import Random

import pytest

from cli import arrivals
from cli.arrivals import (
    file_sha256,
    finish_arrivals,
    is_duplicate,
    put_in_rejected,
    safe_name,
    skip_job,
    take_copy,
    take_from_inbox,
)
from cli.home import Home
from cli.init import lay_out
from cli.ledger import Ledger
from core.commands import Skip
from journal.durable import fsync_directory, fsync_file, opened, read_file
from journal.storage import Storage
from tests.simulation.disk import Disk, PowerCut, Process
from tests.simulation.disk import Killed as Dead


class Killed(BaseException):
    """Stands for the process ending at that point."""


@pytest.fixture
def ledger(home: Home) -> Iterator[Ledger]:
    opened = Ledger.open(home)
    yield opened
    opened.close()


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def arm(point: str) -> None:
        def reached(name: str) -> None:
            if name == point:
                raise Killed

        monkeypatch.setattr(arrivals, "reached", reached)

    return arm


def test_a_file_is_moved_under_its_hash(home: Home, ledger: Ledger, drop: Callable[..., Path]) -> None:
    """Out of the inbox, into data/, one job with its name and size."""
    path = drop("a.jsonl", "ok ok")
    job = file_sha256(path)
    take_from_inbox(ledger, path, "high")
    assert not path.exists()
    assert home.data_file(job).read_text(encoding="utf-8") == "ok\nok\n"
    waiting = ledger.state.queue.front()
    assert waiting is not None
    assert (waiting.id, waiting.name, waiting.size_bytes, waiting.priority) == (job, "a.jsonl", 6, "high")


@pytest.mark.parametrize("point", ["arrival_moved", "arrival_journaled", "arrival_named"])
def test_killed_anywhere_the_file_is_taken_on_once(
    point: str, home: Home, drop: Callable[..., Path], die_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start finds it where it is and arrives at the same end: one job, its name kept."""
    path = drop("a.jsonl", "ok", "low")
    job = file_sha256(path)
    dying = Ledger.open(home)
    die_at(point)
    with pytest.raises(Killed):
        take_from_inbox(dying, path, "low")
    dying.close()
    monkeypatch.undo()
    again = Ledger.open(home)
    finish_arrivals(again)
    finish_arrivals(again)
    assert [(waiting.id, waiting.name, waiting.priority) for waiting in again.state.queue] == [(job, "a.jsonl", "low")]
    assert again.state.counts.duplicates == 0
    assert home.data_file(job).exists()
    assert not list((home.data / ".arriving").iterdir())
    again.close()


def test_a_skipped_file_that_was_on_its_way_is_not_accepted_again(
    home: Home, drop: Callable[..., Path], die_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process died between journaling it and naming it; skipped there and then it must not become unknown."""
    path = drop("a.jsonl", "ok")
    job = file_sha256(path)
    dying = Ledger.open(home)
    die_at("arrival_journaled")
    with pytest.raises(Killed):
        take_from_inbox(dying, path, "normal")
    dying.close()
    monkeypatch.undo()
    with closing(Ledger.open(home)) as again:
        skip_job(again, job)
        finish_arrivals(again)
        assert not len(again.state.queue)
        assert home.data_file(job).exists()


def test_a_copy_leaves_the_original_where_it_is(home: Home, ledger: Ledger, tmp_path: Path) -> None:
    """`keepstep add` never moves what a person keeps elsewhere."""
    path = tmp_path / "mine.jsonl"
    path.write_text("ok\n", encoding="utf-8")
    take_copy(ledger, path, "normal")
    assert path.exists()
    assert len(ledger.state.queue) == 1


def test_half_a_copy_is_never_believed(home: Home, ledger: Ledger) -> None:
    """A copy that was cut off is removed: its source is where it was."""
    directory = home.data / ".arriving" / "normal-0123456789abcdef"
    directory.mkdir(parents=True)
    (directory / ".a.jsonl.01234567.tmp").write_text("half", encoding="utf-8")
    finish_arrivals(ledger)
    assert len(ledger.state.queue) == 0
    assert not directory.exists()


def test_an_arrival_that_another_process_is_at_is_left_alone(home: Home, ledger: Ledger) -> None:
    """A daemon that starts while `keepstep add` copies does not take the copy from under it."""
    import fcntl

    directory = home.data / ".arriving" / "normal-0123456789abcdef"
    directory.mkdir(parents=True)
    (directory / ".a.jsonl.01234567.tmp").write_text("half", encoding="utf-8")
    fd = os.open(directory, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    finish_arrivals(ledger)
    assert (directory / ".a.jsonl.01234567.tmp").exists()
    os.close(fd)


def test_the_same_bytes_again_are_known_and_kept(home: Home, ledger: Ledger, drop: Callable[..., Path]) -> None:
    """Under any name; the second file goes to rejected/ with a word about why, for it may not be ours to delete."""
    take_from_inbox(ledger, drop("a.jsonl", "ok"), "normal")
    events = take_from_inbox(ledger, drop("b.jsonl", "ok"), "normal")
    assert is_duplicate(events)
    assert len(ledger.state.queue) == 1
    assert json.loads((home.rejected / "b.jsonl.report.json").read_bytes())["problem"] == "duplicate"
    assert (home.rejected / "b.jsonl").exists()


def test_nothing_in_rejected_is_overwritten(home: Home, ledger: Ledger, drop: Callable[..., Path]) -> None:
    """Two rejected files of one name are two files."""
    take_from_inbox(ledger, drop("a.jsonl", "ok"), "normal")
    for _ in range(2):
        take_from_inbox(ledger, drop("a.jsonl", "ok"), "normal")
    assert sorted(path.name for path in home.rejected.glob("*.jsonl")) == ["2-a.jsonl", "a.jsonl"]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        (".hidden", "hidden"),
        ("...", "unnamed"),
        ("a/b", "a_b"),
        ("ä" * 200, "ä" * 100),
    ],
)
def test_no_name_leaves_the_directory(name: str, safe: str) -> None:
    """Whatever a file is called, it is one component, and short enough to carry a suffix."""
    assert safe_name(name) == safe


def test_names_of_any_bytes_are_taken(home: Home, ledger: Ledger) -> None:
    """Newlines, quotes, emoji, and bytes that are no UTF-8."""
    for number, name in enumerate(
        [b"new\nline.jsonl", '"😀".jsonl'.encode(), b"\xff\xfe.jsonl", b"x" * 240 + b".jsonl"]
    ):
        path = Path(os.fsdecode(os.fsencode(home.inbox) + b"/" + name))
        path.write_text(f"ok {number}\n", encoding="utf-8")
        take_from_inbox(ledger, path, "normal")
    names = [job.name for job in ledger.state.queue]
    assert names[:3] == ["new\nline.jsonl", '"😀".jsonl', "\\xff\\xfe.jsonl"]
    assert len(names) == 4


# -- on a disk that forgets what was not synced ---------------------------------------------------------------------


@pytest.fixture
def disk() -> Disk:
    """A home on it, made by the real `init`."""
    return disk_of(3)


def disk_of(seed: int) -> Disk:
    made = Disk(Random(seed))
    process = made.process("init")
    process.mkdir(Path("/home"))
    made.sync_directory(made.root)
    lay_out(Home(Path("/home"), storage=process), b"")
    return made


def opened_on(disk: Disk) -> tuple[Home, Ledger]:
    home = Home(Path("/home"), storage=disk.process("shell"))
    return home, Ledger.open(home)


def write(home: Home, path: Path, data: bytes) -> None:
    with opened(home.storage, path, os.O_WRONLY | os.O_CREAT) as fd:
        home.storage.write(fd, data)


def fail_once(disk: Disk, call: str, path: str) -> None:
    """The next such call on such a path fails."""

    def fail(_process: Process, name: str, at: str) -> None:
        if name == call and at.endswith(path):
            disk.before_call = lambda *_: None
            raise OSError(errno.EIO, os.strerror(errno.EIO), at)

    disk.before_call = fail


def test_a_file_is_known_by_what_is_on_disk_and_not_by_what_the_cache_shows(disk: Disk) -> None:
    """Its fsync failed once; after that the cache holds bytes that the next power cut takes."""
    home, ledger = opened_on(disk)
    path = home.inbox / "a.jsonl"
    write(home, path, b"row\n" * 2000)
    fail_once(disk, "fsync", "a.jsonl")
    with pytest.raises(OSError, match="Input/output"):
        take_from_inbox(ledger, path, "normal")
    finish_arrivals(ledger)
    disk.cut_power()
    home, ledger = opened_on(disk)
    (job,) = [waiting.id for waiting in ledger.state.queue]
    assert file_sha256(home.data_file(job), storage=home.storage) == job


def test_a_rejected_file_that_was_moved_and_not_synced_does_not_come_back() -> None:
    """Done already is the same as done only if it is also on disk."""
    for seed in range(20):
        disk = disk_of(seed)
        home, ledger = opened_on(disk)
        write(home, home.inbox / "a.jsonl", b"row\n")
        take_from_inbox(ledger, home.inbox / "a.jsonl", "normal")
        (job,) = [waiting.id for waiting in ledger.state.queue]
        fail_once(disk, "fsync", "/home/data")
        with pytest.raises(OSError, match="Input/output"):
            put_in_rejected(home, home.data_file(job), "a.jsonl", {})
        put_in_rejected(home, home.data_file(job), "a.jsonl", {})
        disk.cut_power()
        left = disk.process("afterwards")
        assert left.exists(home.rejected / "a.jsonl")
        assert not left.exists(home.data_file(job))


def test_a_file_that_changes_while_it_is_hashed_is_hashed_again(disk: Disk) -> None:
    """Its writer was slow; the name that it gets must be that of its bytes."""
    ticks = count(1_800_000_000)
    disk.now = lambda: next(ticks)
    home, ledger = opened_on(disk)
    path = home.inbox / "a.jsonl"
    write(home, path, b"first\n")
    reads = 0

    def change(_process: Process, name: str, at: str) -> None:
        nonlocal reads
        reads += name == "read" and at.endswith("/a.jsonl")
        if reads == 2:  # its end was just reached
            disk.before_call = lambda *_: None
            write(home, Path(at), b"other\n")

    disk.before_call = change
    take_from_inbox(ledger, path, "normal")
    (job,) = [waiting.id for waiting in ledger.state.queue]
    assert read_file(home.data_file(job), storage=home.storage) == b"other\n"
    assert file_sha256(home.data_file(job), storage=home.storage) == job


def test_a_file_that_was_moved_on_and_not_synced_is_not_lost_with_its_directory() -> None:
    """Killed between the rename into data/ and its sync: the next start finds the arriving directory empty, and what
    removes that must not reach the disk before what emptied it."""
    for seed in range(40):
        disk = disk_of(seed)
        home, ledger = opened_on(disk)
        path = home.inbox / "a.jsonl"
        write(home, path, b"row\n")

        def kill(process: Process, name: str, at: str, disk: Disk = disk) -> None:
            if name == "fsync" and at == "/home/data" and not disk.process("").exists(Path("/home/inbox/a.jsonl")):
                disk.before_call = lambda *_: None
                process.die()
                raise Dead

        disk.before_call = kill
        with pytest.raises(Dead):
            take_from_inbox(ledger, path, "normal")
        home, ledger = opened_on(disk)
        finish_arrivals(ledger)
        disk.cut_power()
        home, ledger = opened_on(disk)
        finish_arrivals(ledger)
        (job,) = [waiting.id for waiting in ledger.state.queue]
        assert file_sha256(home.data_file(job), storage=home.storage) == job


def test_no_place_that_a_file_stands_in_is_ever_unsynced(disk: Disk) -> None:
    """From the inbox's lanes to data/: whatever the power cut takes of the names above it, the file is not among it."""
    home, ledger = opened_on(disk)
    for lane in ("", "high", "low"):
        write(home, home.inbox / lane / f"a{lane}.jsonl", f"row {lane}\n".encode())
        fsync_file(home.inbox / lane / f"a{lane}.jsonl", storage=home.storage)
        fsync_directory(home.inbox / lane, storage=home.storage)
    disk.cut_power()
    home, ledger = opened_on(disk)
    assert all(home.storage.exists(home.inbox / lane / f"a{lane}.jsonl") for lane in ("", "high", "low"))
    take_from_inbox(ledger, home.inbox / "a.jsonl", "normal")
    disk.cut_power()
    home, ledger = opened_on(disk)
    (job,) = [waiting.id for waiting in ledger.state.queue]
    assert home.storage.exists(home.data_file(job))


class Elsewhere(Storage):
    """The inbox is on another file system."""

    def rename(self, source: Path, target: Path) -> None:
        if source.parent.name == "inbox":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        super().rename(source, target)


def test_a_file_from_another_file_system_is_copied_before_it_goes(home: Home, drop: Callable[..., Path]) -> None:
    """Whole and synced; then the original is deleted."""
    path = drop("a.jsonl", "ok ok")
    job = file_sha256(path)
    ledger = Ledger.open(Home(home.root, storage=Elsewhere()))
    take_from_inbox(ledger, path, "normal")
    ledger.close()
    assert not path.exists()
    assert home.data_file(job).read_text(encoding="utf-8") == "ok\nok\n"


def test_a_move_that_was_done_is_said_to_be_where_it_was_done(home: Home, tmp_path: Path) -> None:
    """Killed between the move and its record: the file of an earlier night that has the name is another one."""
    for night in ("first", "second"):
        (tmp_path / "a.jsonl").write_text(night, encoding="utf-8")
        moved = put_in_rejected(home, tmp_path / "a.jsonl", "a.jsonl", {})
        assert put_in_rejected(home, tmp_path / "a.jsonl", "a.jsonl", {}) == moved
        assert moved.read_text(encoding="utf-8") == night


def test_an_init_that_was_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    """Given again, it makes what was missing and removes what was not finished."""
    home = Home(tmp_path / "home")
    home.root.mkdir()
    (home.root / ".keepstep.toml.01234567.tmp").write_text("half", encoding="utf-8")
    lay_out(home, b"")
    assert home.config.exists()
    assert not [path for path in home.root.iterdir() if path.name.startswith(".")]


# -- two processes at once ------------------------------------------------------------------------------------------


def meanwhile(disk: Disk, call: str, path: str, what: Callable[[], None]) -> None:
    """Just before the next such call, somebody else does something."""

    def before(_process: Process, name: str, at: str) -> None:
        if name == call and path in at:
            disk.before_call = lambda *_: None
            what()

    disk.before_call = before


def test_a_copy_that_is_under_way_is_not_taken_by_another_process(disk: Disk) -> None:
    """It holds the directory that it works in; a daemon that starts just then leaves it alone."""
    home, ledger = opened_on(disk)
    source = Path("/mine.jsonl")
    write(home, source, b"row\n")
    theirs = opened_on(disk)[1]
    meanwhile(disk, "rename", "/.arriving/", lambda: finish_arrivals(theirs))
    take_copy(ledger, source, "normal")
    assert [job.name for job in ledger.state.queue] == ["mine.jsonl"]
    assert not home.storage.names(home.data / ".arriving")


def test_two_copies_of_one_file_at_once_are_one_job(disk: Disk) -> None:
    """Whether its bytes are known is asked under the append lock: the other copy may be in and done by then."""
    home, ledger = opened_on(disk)
    source = Path("/mine.jsonl")
    write(home, source, b"row\n")
    theirs = opened_on(disk)[1]

    def be_quicker() -> None:
        take_copy(theirs, source, "normal")
        theirs.execute(Skip(job=file_sha256(source, storage=home.storage)))

    meanwhile(disk, "lock", "/journal/lock", be_quicker)
    assert is_duplicate(take_copy(ledger, source, "normal"))
    assert not len(ledger.state.queue)
    assert home.storage.exists(home.rejected / "mine.jsonl")


def test_a_file_on_its_way_survives_whatever_the_power_cut_takes() -> None:
    """Out of the inbox, and not journaled yet: every name above it is on disk."""
    for seed in range(20):
        disk = disk_of(seed)
        home, ledger = opened_on(disk)
        path = home.inbox / "a.jsonl"
        write(home, path, b"row\n")
        fsync_file(path, storage=home.storage)
        fsync_directory(home.inbox, storage=home.storage)

        def cut() -> None:
            raise PowerCut

        meanwhile(disk, "lock", "/journal/lock", cut)
        with pytest.raises(PowerCut):
            take_from_inbox(ledger, path, "normal")
        disk.cut_power()
        home, ledger = opened_on(disk)
        finish_arrivals(ledger)
        assert len(ledger.state.queue) == 1


def test_what_a_dead_process_moved_is_on_disk_before_it_is_accepted() -> None:
    """Killed between the rename out of the inbox and its sync; accepted by the next, and then the power goes."""
    for seed in range(20):
        disk = disk_of(seed)
        home, ledger = opened_on(disk)
        path = home.inbox / "a.jsonl"
        write(home, path, b"row\n")

        def die() -> None:
            raise Dead

        meanwhile(disk, "fsync", "/.arriving/normal-", die)
        with pytest.raises(Dead):
            take_from_inbox(ledger, path, "normal")
        home.storage.die()  # type: ignore[attr-defined]
        home, ledger = opened_on(disk)

        def cut() -> None:
            raise PowerCut

        meanwhile(disk, "rename", "/home/data/", cut)
        with pytest.raises(PowerCut):
            finish_arrivals(ledger)
        disk.cut_power()
        left = disk.process("afterwards")
        (there,) = left.names(home.data / ".arriving")
        assert left.names(home.data / ".arriving" / there) == ["a.jsonl"]


def test_the_report_of_a_rejected_file_is_on_disk_with_it() -> None:
    """Whole, not a name without content."""
    for seed in range(20):
        disk = disk_of(seed)
        home, ledger = opened_on(disk)
        write(home, home.inbox / "a.jsonl", b"row\n")
        take_from_inbox(ledger, home.inbox / "a.jsonl", "normal")
        (job,) = [waiting.id for waiting in ledger.state.queue]
        put_in_rejected(home, home.data_file(job), "a.jsonl", {"problem": "broken_json"})
        disk.cut_power()
        report = read_file(home.rejected / "a.jsonl.report.json", storage=disk.process("afterwards"))
        assert json.loads(report)["problem"] == "broken_json"
