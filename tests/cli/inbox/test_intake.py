"""The daemon and its inbox: whatever lies there, however much of it, and under whatever name."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.inbox import intake
from cli.inbox.intake import FILES_PER_TURN, Intake
from cli.inbox.watcher import LONG_WRITTEN_S, STILL_WRITTEN, Inbox
from cli.text import shown_text
from events import kinds
from events.kinds import AnyEvent


@pytest.fixture
def many(home: Home) -> int:
    """Three turns' worth of files, all complete."""
    count = 2 * FILES_PER_TURN + 7
    for number in range(count):
        path = home.inbox / f"{number:05}.jsonl"
        path.write_text(f"ok {number}\n", encoding="utf-8")
        os.utime(path, (1.0, 1.0))
    return count


def test_many_files_are_taken_a_few_a_turn(home: Home, many: int) -> None:
    """Between turns everything else has its time; the inbox is not looked through again for each."""
    inbox, looked = Inbox(home), 0
    taking = Intake(home, inbox, lambda _: None)
    scan = inbox.scan

    def counted(now: float) -> None:
        nonlocal looked
        looked += 1
        scan(now)

    inbox.scan = counted
    with closing(EventStore.open(home)) as store:
        turns = 0
        while taking.has_more or not taking.has_scanned:
            began = time.monotonic()
            assert len(list(taking.accept_some(store))) <= FILES_PER_TURN
            assert time.monotonic() - began < intake.SECONDS_PER_TURN + 5.0  # those of the last file are its disk's
            turns += 1
        assert turns >= 3
        assert looked <= 1 + turns // 2
        assert len(store.state.queue) == many
        assert [job.name for job in store.state.queue] == [f"{number:05}.jsonl" for number in range(many)]


def test_what_is_urgent_does_not_wait_for_all_the_others(home: Home, many: int) -> None:
    """A file that comes into the lane for that while many are being taken is found at the next poll."""
    taking = Intake(home, Inbox(home), lambda _: None)
    with closing(EventStore.open(home)) as store:
        list(taking.accept_some(store))
        path = home.inbox / "high" / "urgent.jsonl"
        path.write_text("ok\n", encoding="utf-8")
        os.utime(path, (1.0, 1.0))
        taking.scan_soon()
        event = next(iter(taking.accept_some(store)))
        assert isinstance(event, kinds.FileEnqueued)
        assert event.name == "urgent.jsonl"
    assert many > FILES_PER_TURN


def test_files_that_arrive_during_training_interrupt_nothing(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], events: Callable[[], list[AnyEvent]]
) -> None:
    """A hundred during the running job: it trains in one attempt, and then each of them."""
    drop("a.jsonl", "slow ok slow ok slow ok")
    for number in range(40):
        drop(f"low-{number}.jsonl", f"ok {' ok' * number}", "low")
    run()
    attempts = [event.job for event in events() if isinstance(event, kinds.AttemptStarted)]
    assert len(attempts) == len(set(attempts)) == 41


def test_what_is_no_file_is_never_taken_and_said_once(
    home: Home,
    drop: Callable[..., Path],
    run: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Directories, links out of the home, to nowhere, pipes, sockets: they stay, with what to do about each."""
    secret = tmp_path / "secret.jsonl"
    secret.write_text("ok\n", encoding="utf-8")
    (home.inbox / "outside.jsonl").symlink_to(secret)
    (home.inbox / "passwd.jsonl").symlink_to("/etc/passwd")
    (home.inbox / "dangling.jsonl").symlink_to(tmp_path / "nothing")
    (home.inbox / "directory").mkdir()
    (home.inbox / "directory" / "inner.jsonl").write_text("ok\n", encoding="utf-8")
    os.mkfifo(home.inbox / "pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(home.inbox)  # the path of a socket has 107 bytes at most
        bound.bind("socket.jsonl")
        drop("a.jsonl", "ok")
        said = run()
    assert sum("is a link and is not followed" in line for line in said) == 3
    assert [line for line in said if "directory" in line] == [
        "inbox/directory is a directory and is ignored; put its files into the inbox itself"
    ]
    assert sum("is not a file (a pipe, a socket, a device)" in line for line in said) == 2
    assert not [line for line in said if line.startswith(("inbox/high", "inbox/low"))]
    with closing(EventStore.open(home)) as store:
        assert store.state.outcomes.counts.trained == 1
    assert len(list(home.inbox.iterdir())) == 6 + 2
    assert secret.exists()


def test_a_file_that_is_written_for_minutes_is_taken_when_its_writer_closes_it(home: Home) -> None:
    """However long it pauses; after a minute it is said what is waited for."""
    inbox, path = Inbox(home), home.inbox / "slow.jsonl"
    with path.open("w", encoding="utf-8") as writer:
        writer.write("ok\n")
        writer.flush()
        os.utime(path, (1.0, 1.0))
        for now in (0.0, 10.0, 50.0, 70.0):
            inbox.scan(now)
            assert inbox.skipped_files == ({path: STILL_WRITTEN} if now > LONG_WRITTEN_S else {})
            assert list(inbox.complete_files(now)) == []
            assert inbox.has_unsettled()
        writer.write("ok\n")
    os.utime(path, (1.0, 1.0))
    inbox.scan(71.0)
    assert not inbox.skipped_files, "its change counts: it is not complete yet"
    inbox.scan(75.0)
    assert [each[:2] for each in inbox.complete_files(75.0)] == [(path, "normal")]
    assert not inbox.has_unsettled()
    assert not inbox.skipped_files


def test_one_name_with_two_contents_is_two_jobs(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], events: Callable[[], list[AnyEvent]]
) -> None:
    """One night's file does not touch the last one's."""
    drop("a.jsonl", "ok")
    run()
    drop("a.jsonl", "ok ok")
    run()
    trained = [event for event in events() if isinstance(event, kinds.FileEnqueued)]
    assert [event.name for event in trained] == ["a.jsonl", "a.jsonl"]
    assert trained[0].job != trained[1].job


NAMES = [b"new\nline.jsonl", "😀 zwölf.jsonl".encode(), b"a..%2f..%2fetc.jsonl", b"-rf.jsonl", b"--help.jsonl"]
NAMES += [b"x" * 249 + b".jsonl", b"\xff\xfe.jsonl", b"\x1b[31mred.jsonl", b"a b\tc.jsonl", b"'\"$(x)`.jsonl"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_name_is_trained_and_stays_in_the_home(
    name: bytes, home: Home, run: Callable[..., list[str]]
) -> None:
    """Once as a file to learn from, once as one that came before: nothing is written outside, nothing raw is said."""
    for _ in range(2):
        path = Path(os.fsdecode(os.fsencode(home.inbox) + b"/" + name))
        path.write_text("ok\n", encoding="utf-8")
        os.utime(path, (1.0, 1.0))
        said = run()
        assert all(part.isprintable() for line in said for part in line.split("\n"))
    with closing(EventStore.open(home)) as store:
        counts = store.state.outcomes.counts
    assert (counts.trained, counts.duplicates) == (1, 1)
    for asked in (os.fsdecode(name), shown_text(path.name)):  # as the system has the name, and as keepstep shows it
        reported = CliRunner().invoke(app, ["explain", "--home", str(home.root), "--", asked])
        assert reported.exit_code == 0, reported.output
    assert sorted(path.name for path in home.root.parent.iterdir()) == ["home"]
    assert len([path for path in home.rejected.iterdir() if not path.name.endswith(".report.json")]) == 1


def turns_of(home: Home) -> list[int]:
    """How many files each turn takes, until none is left."""
    taking, turns = Intake(home, Inbox(home), lambda _: None), list[int]()
    with closing(EventStore.open(home)) as store:
        while taking.has_more or not taking.has_scanned:
            turns.append(len(list(taking.accept_some(store))))
    return turns


def test_a_turn_grows_while_the_disk_is_quick_and_shrinks_when_it_is_slow(
    home: Home, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of a turn arrive together, so their number is what bounds its time."""
    monkeypatch.setattr(intake, "SECONDS_PER_TURN", 60.0)
    quick = turns_of(home)
    assert quick[:4] == [8, 16, 32, 64]
    assert sum(quick) == many
    for number in range(11):
        (home.inbox / f"slow-{number}.jsonl").write_text(f"ok slow {number}\n", encoding="utf-8")
        os.utime(home.inbox / f"slow-{number}.jsonl", (1.0, 1.0))
    monkeypatch.setattr(intake, "SECONDS_PER_TURN", 0.0)
    assert turns_of(home) == [8, 1, 1, 1]


def test_a_turn_ends_with_the_file_that_makes_it_large(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its bytes are read before the next turn."""
    for number in range(4):
        (home.inbox / f"{number}.jsonl").write_text(f"row {number}\n", encoding="utf-8")
        os.utime(home.inbox / f"{number}.jsonl", (1.0, 1.0))
    monkeypatch.setattr(intake, "BYTES_PER_TURN", 10)
    assert turns_of(home) == [2, 2]


def test_what_cannot_be_read_is_said_once_and_left(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's file: the others are taken, and this one waits to be given the right."""
    said: list[str] = []
    for name in ("a.jsonl", "b.jsonl"):
        (home.inbox / name).write_text(f"{name}\n", encoding="utf-8")
        os.utime(home.inbox / name, (1.0, 1.0))
    taking = Intake(home, Inbox(home), said.append)
    from cli.inbox import accept

    collect_file = accept.collect_file  # type: ignore[attr-defined]

    def forbidden(home: Home, path: Path, directory: Path) -> Path:
        if path.name == "a.jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        return collect_file(home, path, directory)

    monkeypatch.setattr(accept, "collect_file", forbidden)
    with closing(EventStore.open(home)) as store:
        for _ in range(3):
            taking.scan_soon()
            list(taking.accept_some(store))
        assert len(store.state.queue) == 1
    (line,) = said
    assert line.startswith("inbox/a.jsonl cannot be accepted: Permission denied. It stays in the inbox")


def test_a_file_that_grows_row_by_row_is_one_job(
    home: Home, run: Callable[..., list[str]], events: Callable[[], list[AnyEvent]]
) -> None:
    """Its writer opens, appends and closes for each row, as loggers do."""
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace("settle_s = 3.0", "settle_s = 1.0"), encoding="utf-8")

    def write() -> None:
        for number in range(12):
            with (home.inbox / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(f"ok {number}\n")
            time.sleep(0.2)

    (home.inbox / "log.jsonl").write_text("ok first\n", encoding="utf-8")
    writer = threading.Thread(target=write)
    writer.start()
    run()
    writer.join()
    (job,) = [event for event in events() if isinstance(event, kinds.FileEnqueued)]
    assert home.data_file(job.job).read_text(encoding="utf-8").count("\n") == 13
