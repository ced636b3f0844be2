"""Which files in the inbox are complete."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cli.home.paths import Home
from cli.inbox.watcher import Inbox
from events.settings import InboxSettings

SETTLE_S = InboxSettings().settle_s


def taken(inbox: Inbox, now: float) -> list[str]:
    inbox.scan(now)
    return [path.name for path, _, _ in inbox.complete_files(now)]


def test_a_file_that_is_written_is_not_taken_until_it_has_settled(home: Home) -> None:
    """It counts from its last change."""
    inbox = Inbox(home)
    path = home.inbox / "a.jsonl"
    path.write_text("half", encoding="utf-8")
    now = time.monotonic()
    assert taken(inbox, now) == []
    path.write_text("half and more", encoding="utf-8")
    assert taken(inbox, now + SETTLE_S) == []
    assert taken(inbox, now + SETTLE_S + 1) == []
    assert taken(inbox, now + 2 * SETTLE_S) == ["a.jsonl"]


def test_a_close_is_no_end(home: Home) -> None:
    """Loggers and generators open, append and close for each row: it waits for the last one."""
    inbox, path = Inbox(home), home.inbox / "log.jsonl"
    now = time.monotonic()
    for row in range(12):
        with path.open("a", encoding="utf-8") as file:
            file.write(f"row {row}\n")
        inbox.notify()
        assert inbox.has_news()
        assert taken(inbox, now + row) == []
        assert inbox.next_settle_time() is not None
    assert taken(inbox, now + 11 + SETTLE_S - 0.1) == []
    assert taken(inbox, now + 11 + SETTLE_S) == ["log.jsonl"]
    assert inbox.next_settle_time() is None


def test_a_file_that_is_replaced_by_another_waits_again(home: Home) -> None:
    """An inode is part of what may not change: size and time may be the same."""
    inbox, path = Inbox(home), home.inbox / "a.jsonl"
    path.write_text("one", encoding="utf-8")
    os.utime(path, ns=(10**18, time.time_ns()))
    now = time.monotonic()
    assert taken(inbox, now) == []
    (home.root / "new").write_text("two", encoding="utf-8")
    os.utime(home.root / "new", ns=(10**18, path.stat().st_mtime_ns))
    (home.root / "new").rename(path)
    assert taken(inbox, now + SETTLE_S) == []
    assert taken(inbox, now + 2 * SETTLE_S) == ["a.jsonl"]


def test_a_file_that_changes_between_look_and_take_is_not_taken(home: Home) -> None:
    """Many files may be taken between the two."""
    inbox, now = Inbox(home), time.monotonic()
    for name in ("a.jsonl", "b.jsonl"):
        (home.inbox / name).write_text("x", encoding="utf-8")
        os.utime(home.inbox / name, (1.0, 1.0))
    inbox.scan(now)
    (home.inbox / "b.jsonl").write_text("x and more", encoding="utf-8")
    assert [path.name for path, _, _ in inbox.complete_files(now)] == ["a.jsonl"]
    assert inbox.has_unsettled()


def test_each_lane_has_its_own_patience(home: Home) -> None:
    """`settle_s`, or the one of the directory."""
    settings = InboxSettings(settle_s=5.0, high_settle_s=0.0, low_settle_s=20.0)
    for lane in ("high", "", "low"):
        (home.inbox / lane / f"{lane or 'normal'}.jsonl").write_text("x", encoding="utf-8")
    inbox, now = Inbox(home, lambda: settings), time.monotonic()
    assert taken(inbox, now) == ["high.jsonl"]
    (home.inbox / "high" / "high.jsonl").unlink()
    assert taken(inbox, now + 5.1) == ["normal.jsonl"]
    (home.inbox / "normal.jsonl").unlink()
    assert taken(inbox, now + 20.1) == ["low.jsonl"]


def test_a_file_that_was_there_long_before_need_not_wait(home: Home) -> None:
    """Its time of change is old."""
    path = home.inbox / "a.jsonl"
    path.write_text("x", encoding="utf-8")
    os.utime(path, (1.0, 1.0))
    assert taken(Inbox(home), time.monotonic()) == ["a.jsonl"]


def test_a_clock_that_was_set_back_only_makes_a_file_wait(home: Home) -> None:
    """A time of change in the future is no reason to take it now, nor never."""
    path = home.inbox / "a.jsonl"
    path.write_text("x", encoding="utf-8")
    os.utime(path, (time.time() + 86400,) * 2)
    inbox, now = Inbox(home), time.monotonic()
    assert taken(inbox, now) == []
    assert taken(inbox, now + SETTLE_S) == ["a.jsonl"]


def test_lanes_are_read_in_order(home: Home) -> None:
    """high, then the inbox itself, then low."""
    for lane in ("low", "", "high"):
        path = home.inbox / lane / f"{lane or 'normal'}.jsonl"
        path.write_text("x", encoding="utf-8")
        os.utime(path, (1.0, 1.0))
    inbox = Inbox(home)
    inbox.scan(time.monotonic())
    found = [(path.name, priority) for path, priority, _ in inbox.complete_files(time.monotonic())]
    assert found == [("high.jsonl", "high"), ("normal.jsonl", "normal"), ("low.jsonl", "low")]


def test_links_and_directories_are_not_taken(home: Home, tmp_path: Path) -> None:
    """A link could point out of the home; a directory is not a file."""
    (tmp_path / "outside.jsonl").write_text("x", encoding="utf-8")
    (home.inbox / "link.jsonl").symlink_to(tmp_path / "outside.jsonl")
    (home.inbox / "directory.jsonl").mkdir()
    inbox, now = Inbox(home), time.monotonic()
    assert taken(inbox, now) == []
    assert taken(inbox, now + 10 * SETTLE_S) == []
