"""Several files in one arriving directory: from every place where a crash can leave them, and each for itself."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from random import Random

import pytest

from cli import arrivals, arriving
from cli.arrivals import file_sha256, finish_arrivals, take_all
from cli.arriving import batches, new_directory
from cli.home import Home
from cli.init import lay_out
from cli.ledger import Ledger
from events.kinds import AnyEvent, FileDuplicate, FileEnqueued
from events.values import Priority
from journal.durable import fsync_directory, fsync_file, is_directory, opened, read_file
from journal.errors import StorageFailed
from journal.storage import Storage
from tests.simulation.disk import Disk, PowerCut, Process

ROWS = {"a.jsonl": "first", "b.jsonl": "second", "c.jsonl": "first", "d.jsonl": "third"}
"""The third file has the bytes of the first."""

BOTH: Sequence[tuple[str, Priority]] = [("high", "high"), ("", "normal")]


class Killed(BaseException):
    """Stands for the process ending at that point."""


def inbox_of(home: Home) -> list[tuple[Path, Priority]]:
    return [(path, "normal") for path in sorted(home.inbox.glob("*.jsonl"))]


def refused(path: Path, why: str) -> None:
    pytest.fail(f"{path}: {why}")


@pytest.mark.parametrize("nth", range(1, 5))
@pytest.mark.parametrize("point", ["arrival_moved", "arrival_journaled", "arrival_named"])
def test_killed_anywhere_every_file_is_taken_on_once(
    point: str, nth: int, home: Home, drop: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of them it is at: the next start and its first look at the inbox arrive at the same end."""
    jobs = [file_sha256(drop(name, rows)) for name, rows in ROWS.items()]
    left = nth

    def reached(name: str) -> None:
        nonlocal left
        left -= name == point
        if name == point and not left:
            raise Killed

    with closing(Ledger.open(home)) as dying, monkeypatch.context() as patched:
        patched.setattr(arrivals, "reached", reached)
        with pytest.raises(Killed):
            list(take_all(dying, inbox_of(home), refused))
    with closing(Ledger.open(home)) as again:
        finish_arrivals(again)
        list(take_all(again, inbox_of(home), refused))
        assert {job.id: job.name for job in again.state.queue} == {
            jobs[0]: "a.jsonl",
            jobs[1]: "b.jsonl",
            jobs[3]: "d.jsonl",
        }
        if (point, nth) == ("arrival_journaled", 3):  # between the record of a known file and its move
            assert again.state.counts.duplicates == 2
        else:
            assert again.state.counts.duplicates == 1
    assert all(file_sha256(home.data_file(job)) == job for job in jobs)
    assert (home.rejected / "c.jsonl").exists()
    assert not list((home.data / ".arriving").iterdir())


def test_whatever_a_power_cut_takes_no_file_is_lost() -> None:
    """Before each call that the arrival of three files makes, with several states of the disk after it."""
    for seed in range(6):
        at, cut = 0, True
        while cut:
            at += 1
            cut = _survives_a_power_cut(Disk(Random(seed * 1000 + at)), at)
        assert at > 60


def _in_keepsteps_hands(home: Home) -> set[str]:
    """The hashes of what stands in data/, and on the way there."""
    storage, above = home.storage, [home.data]
    if storage.exists(home.data / ".arriving"):
        above += [home.data / ".arriving" / name for name in storage.names(home.data / ".arriving")]
    files = [place / name for place in above for name in storage.names(place) if name.endswith(".jsonl")]
    return {file_sha256(file, storage=storage) for file in files}


def _survives_a_power_cut(disk: Disk, at: int) -> bool:
    """Whether the power was cut before the arrival was complete."""
    process = disk.process("init")
    process.mkdir(Path("/home"))
    disk.sync_directory(disk.root)
    lay_out(Home(Path("/home"), storage=process), b"")
    home = Home(Path("/home"), storage=disk.process("daemon"))
    paths = [home.inbox / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    for path in paths:
        with opened(home.storage, path, os.O_WRONLY | os.O_CREAT) as fd:
            home.storage.write(fd, f"{ROWS[path.name]}\n".encode() * 500)
        fsync_file(path, storage=home.storage)
    fsync_directory(home.inbox, storage=home.storage)
    jobs = {file_sha256(path, storage=home.storage) for path in paths}
    ledger, calls, cut = Ledger.open(home), 0, False

    def before(_process: Process, _call: str, _path: str) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            disk.before_call = lambda *_: None
            raise PowerCut

    disk.before_call = before
    try:
        list(take_all(ledger, [(path, "normal") for path in paths], refused))
    except PowerCut:
        cut = True
    disk.before_call = lambda *_: None
    disk.cut_power()
    home = Home(Path("/home"), storage=disk.process("next"))
    ledger = Ledger.open(home)
    journaled = {job.id for job in ledger.state.queue}
    assert journaled <= _in_keepsteps_hands(home), at
    finish_arrivals(ledger)
    assert journaled <= {job.id for job in ledger.state.queue}
    list(take_all(ledger, [(path, "normal") for path in paths if home.storage.exists(path)], refused))
    assert {job.id for job in ledger.state.queue} == jobs, at
    for job in jobs:
        assert file_sha256(home.data_file(job), storage=home.storage) == job
    assert not home.storage.names(home.data / ".arriving")
    if not cut:
        assert read_file(home.rejected / "c.jsonl", storage=home.storage) == b"first\n" * 500
    return cut


ON_OTHER_DISK = "d.jsonl"


def _bytes_in(home: Home) -> set[bytes]:
    """The contents of all files in the places where a file of the inbox can be."""
    storage = home.storage
    places = [home.inbox, home.data, home.rejected]
    if storage.exists(home.data / ".arriving"):
        places += [home.data / ".arriving" / name for name in storage.names(home.data / ".arriving")]
    return {
        read_file(place / name, storage=storage)
        for place in places
        for name in storage.names(place)
        if name.endswith(".jsonl") and not is_directory(place / name, storage=storage)
    }


def _with_files(disk: Disk) -> tuple[Home, list[tuple[Path, Priority]]]:
    """A home whose inbox has the files of ROWS, all on disk."""
    process = disk.process("init")
    process.mkdir(Path("/home"))
    disk.sync_directory(disk.root)
    lay_out(Home(Path("/home"), storage=process), b"")
    home = Home(Path("/home"), storage=disk.process("daemon"))
    paths = [home.inbox / name for name in ROWS]
    for path in paths:
        with opened(home.storage, path, os.O_WRONLY | os.O_CREAT) as fd:
            home.storage.write(fd, f"{ROWS[path.name]}\n".encode() * 500)
        fsync_file(path, storage=home.storage)
    fsync_directory(home.inbox, storage=home.storage)
    return home, [(path, "normal") for path in paths]


def _take_with_an_error(disk: Disk, at: int) -> tuple[Home, str]:
    """Take the files, where the call number `at` fails once; one file is on another disk. Returns the call that failed;
    "" if there are fewer."""
    home, files = _with_files(disk)
    calls, failed, moved = 0, "", False
    ledger = Ledger.open(home)

    def before(_process: Process, call: str, path: str) -> None:
        nonlocal calls, failed, moved
        calls += 1
        if calls == at:
            failed = f"{call} {path}"
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        if not moved and call == "rename" and path.endswith(ON_OTHER_DISK):
            moved = True  # the next one is that of the copy
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)

    disk.before_call = before
    with suppress(OSError, StorageFailed):
        list(take_all(ledger, files, lambda *_: None))
    disk.before_call = lambda *_: None
    return home, failed


@pytest.mark.parametrize("finished", [False, True])
def test_whatever_call_fails_no_file_is_lost(*, finished: bool) -> None:
    """Each is in the inbox, on its way, in data/ or in rejected/: now, and after the next files and a power cut.
    `finished`: the files are taken on before that."""
    contents = {f"{row}\n".encode() * 500 for row in ROWS.values()}
    for at in count(1):
        disk = Disk(Random(at))
        home, failed = _take_with_an_error(disk, at)
        assert contents <= _bytes_in(home), failed
        if finished:
            with closing(Ledger.open(home)) as ledger:
                finish_arrivals(ledger)
            assert contents <= _bytes_in(home), failed
        with new_directory(home, "high"):  # the next files come: it syncs data/.arriving
            pass
        disk.cut_power()
        home = Home(Path("/home"), storage=disk.process("next"))
        assert contents <= _bytes_in(home), failed
        ledger = Ledger.open(home)
        finish_arrivals(ledger)
        left = [home.inbox / name for name in ROWS if home.storage.exists(home.inbox / name)]
        list(take_all(ledger, [(path, "normal") for path in left], refused))
        assert len(ledger.state.queue) == 3, failed
        for job in ledger.state.queue:
            assert file_sha256(home.data_file(job.id), storage=home.storage) == job.id
        assert not home.storage.names(home.data / ".arriving"), failed
        if not failed:
            break
    assert at > 80


class Noting(Storage):
    """Notes which directories are synced, and when the journal is."""

    def __init__(self) -> None:
        self.synced: list[str] = []

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self.synced.append(Path(f"/proc/self/fd/{fd}").readlink().name.partition("-")[0])

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        self.synced.append("journal")


def test_directories_are_synced_once_for_all_files(home: Home, drop: Callable[..., Path]) -> None:
    """The new place before the old one, both before a file is read, and `data/` after the one record of them."""
    for name in ("a", "b", "c"):
        drop(f"{name}.jsonl", name)
    storage = Noting()
    with closing(Ledger.open(Home(home.root, storage=storage))) as ledger:
        list(take_all(ledger, inbox_of(home)[:1], refused))
        storage.synced.clear()
        list(take_all(ledger, inbox_of(home), refused))
        assert storage.synced == [".arriving", "normal", "inbox", "b.jsonl", "c.jsonl", "journal", "data", "normal"]


def test_the_new_places_of_files_are_synced_before_what_they_left(home: Home) -> None:
    """An error may have come between a rename and its sync. A file system may lose a name then."""
    storage = Noting()
    (home.data / ".arriving" / "high-0123456789abcdef").mkdir(parents=True)
    with closing(Ledger.open(Home(home.root, storage=storage))) as ledger:
        storage.synced.clear()
        finish_arrivals(ledger)
    assert sorted(storage.synced[:5]) == ["data", "high", "inbox", "low", "rejected"]
    assert storage.synced[5:] == [".arriving", "high"]


class Troubled(Storage):
    """What can happen to one file between the look at it and its record."""

    def rename(self, source: Path, target: Path) -> None:
        if source.parent.name == "inbox" and source.name == "gone.jsonl":
            source.unlink()
        super().rename(source, target)
        if source.parent.name == "inbox" and source.name == "link.jsonl":
            target.unlink()
            target.symlink_to("/etc/passwd")
        if source.parent.name == "inbox" and source.name == "taken-away.jsonl":
            target.unlink()

    def why_unreadable(self, path: Path) -> str | None:
        return "Permission denied" if path.name == "secret.jsonl" else super().why_unreadable(path)

    def open(self, path: Path, flags: int, mode: int = 0o640) -> int:
        if path.name == "secret.jsonl" and ".arriving" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return super().open(path, flags, mode)


def test_what_happens_to_one_file_happens_to_no_other(home: Home, drop: Callable[..., Path]) -> None:
    """One vanishes, one turns into a link, one may not be read: the others are jobs, and nothing of theirs is told."""
    for name in ("a", "gone", "link", "m", "secret", "taken-away", "z"):
        drop(f"{name}.jsonl", name)
    said: list[tuple[str, str]] = []
    with closing(Ledger.open(Home(home.root, storage=Troubled()))) as ledger:
        list(take_all(ledger, inbox_of(home), lambda path, why: said.append((path.name, why))))
        assert [job.name for job in ledger.state.queue] == ["a.jsonl", "m.jsonl", "z.jsonl"]
    assert said == [("secret.jsonl", "Permission denied")]
    assert [path.name for path in home.inbox.glob("*.jsonl")] == ["secret.jsonl"]
    assert any(path.is_symlink() and path.name.endswith("link.jsonl") for path in home.rejected.iterdir())
    assert not list((home.data / ".arriving").iterdir())


class Opened(Storage):
    """A writer opens a file between the last look at it and its move, and adds a row after the move."""

    writer = -1

    def __init__(self, *, same_disk: bool) -> None:
        self.same_disk = same_disk

    def rename(self, source: Path, target: Path) -> None:
        if source.name == "written.jsonl" and source.parent.name == "inbox" and self.writer < 0:
            self.writer = os.open(source, os.O_WRONLY | os.O_APPEND)
            if not self.same_disk:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        super().rename(source, target)


@pytest.mark.parametrize("same_disk", [True, False])
def test_a_file_that_is_opened_for_writing_as_it_is_taken_stays_in_the_inbox(
    home: Home, drop: Callable[..., Path], *, same_disk: bool
) -> None:
    """Whatever its writer adds is trained, once the writer has closed it. A new file of its name is another one."""
    for name in ("a", "written", "z"):
        drop(f"{name}.jsonl", name)
    storage = Opened(same_disk=same_disk)
    with closing(Ledger.open(Home(home.root, storage=storage))) as ledger:
        list(take_all(ledger, inbox_of(home), refused))
        assert [job.name for job in ledger.state.queue] == ["a.jsonl", "z.jsonl"]
        os.write(storage.writer, b"more\n")
        os.close(storage.writer)
        assert (home.inbox / "written.jsonl").read_bytes() == b"written\nmore\n"
        list(take_all(ledger, inbox_of(home), refused))
        *_, last = ledger.state.queue
        assert home.data_file(last.id).read_bytes() == b"written\nmore\n"
    assert not list((home.data / ".arriving").iterdir())


def test_a_file_with_a_writer_is_put_back_at_the_next_start(home: Home) -> None:
    """Its first process died after the move. Its lane may have a new file of that name."""
    there = home.data / ".arriving" / "high-0123456789abcdef"
    there.mkdir(parents=True)
    (home.inbox / "high" / "a.jsonl").write_text("new\n", encoding="utf-8")
    with (there / "a.jsonl").open("w", encoding="utf-8") as writer, closing(Ledger.open(home)) as ledger:
        finish_arrivals(ledger)
        assert not len(ledger.state.queue)
        writer.write("old\n")
    found = {path.name: path.read_text(encoding="utf-8") for path in (home.inbox / "high").iterdir()}
    assert found == {"a.jsonl": "new\n", "2-a.jsonl": "old\n"}
    assert not there.exists()


def test_one_name_in_two_lanes_is_two_files(home: Home, drop: Callable[..., Path]) -> None:
    """Each with the priority of its lane, in a directory of its own."""
    files = [(drop("a.jsonl", f"row {lane}", lane), priority) for lane, priority in BOTH]
    with closing(Ledger.open(home)) as ledger:
        assert [type(event) for event in take_all(ledger, files, refused)] == [FileEnqueued, FileEnqueued]
        assert {job.priority for job in ledger.state.queue} == {"high", "normal"}


def test_names_that_become_one_name_get_a_directory_each() -> None:
    """A copy has a shorter name than its file: a second one would replace the first."""
    one, two = (Path(first + "x" * 220 + ".jsonl") for first in "ab")
    other = Path("other.jsonl")
    files: list[tuple[Path, Priority]] = [(other, "normal"), (one, "normal"), (two, "normal")]
    assert list(batches(files)) == [("normal", [other, one]), ("normal", [two])]


class Broken(Storage):
    """The second file gets no name in data/."""

    def rename(self, source: Path, target: Path) -> None:
        if source.name == "b.jsonl" and target.parent.name == "data":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))
        super().rename(source, target)


def test_what_was_journaled_is_told_before_an_error(home: Home, drop: Callable[..., Path]) -> None:
    """The journal has it, so whoever tells of the journal hears it; and the next start finds both files."""
    for name in ("a.jsonl", "b.jsonl"):
        drop(name, name)
    told: list[AnyEvent] = []
    with closing(Ledger.open(Home(home.root, storage=Broken()))) as ledger:
        events = take_all(ledger, inbox_of(home), refused)
        with pytest.raises(OSError, match="Input/output"):
            told.extend(iter(lambda: next(events), None))
    assert [event.name for event in told if isinstance(event, FileEnqueued)] == ["a.jsonl", "b.jsonl"]
    with closing(Ledger.open(home)) as ledger:
        finish_arrivals(ledger)
        assert all(home.data_file(job.id).exists() for job in ledger.state.queue)
        assert ledger.state.counts.duplicates == 0


def test_duplicates_that_arrive_together_are_told_as_duplicates(home: Home, drop: Callable[..., Path]) -> None:
    """Also where all of them have the same bytes."""
    for number in range(4):
        drop(f"{number}.jsonl", "row")
    with closing(Ledger.open(home)) as ledger:
        found = [type(event) for event in take_all(ledger, inbox_of(home), refused)]
    assert found == [FileEnqueued, FileDuplicate, FileDuplicate, FileDuplicate]
    assert sorted(path.name for path in home.rejected.glob("?.jsonl")) == ["1.jsonl", "2.jsonl", "3.jsonl"]


def test_a_new_directory_that_another_process_holds_is_not_used(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that finds it before its maker holds it removes it, and would take what comes into it."""
    theirs: list[int] = []
    sync = arriving.durable.fsync_directory

    def found_first(path: Path, *, storage: Storage) -> None:
        sync(path, storage=storage)
        if path.name == ".arriving" and not theirs:
            (made,) = path.iterdir()
            theirs.append(os.open(made, os.O_RDONLY))
            fcntl.flock(theirs[0], fcntl.LOCK_EX)

    monkeypatch.setattr(arriving.durable, "fsync_directory", found_first)
    with new_directory(home, "low") as directory:
        assert not os.path.samestat(os.fstat(theirs[0]), directory.stat())
    os.close(theirs[0])
