"""Which files in the inbox are complete."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cli.home import Home
from cli.inbox import SETTLED_S, Inbox, is_ignored


def taken(inbox: Inbox, now: float) -> list[str]:
    inbox.look(now)
    return [path.name for path, _ in inbox.complete(now)]


def test_a_file_that_is_written_is_not_taken_until_it_has_settled(home: Home) -> None:
    """It counts from its last change."""
    inbox = Inbox(home)
    path = home.inbox / "a.jsonl"
    path.write_text("half", encoding="utf-8")
    now = time.monotonic()
    assert taken(inbox, now) == []
    path.write_text("half and more", encoding="utf-8")
    assert taken(inbox, now + SETTLED_S) == []
    assert taken(inbox, now + SETTLED_S + 1) == []
    assert taken(inbox, now + 2 * SETTLED_S) == ["a.jsonl"]


def test_a_file_whose_writer_closed_it_is_taken_at_once(home: Home) -> None:
    """Somebody heard it close; nobody waits for it to settle."""
    inbox = Inbox(home)
    path = home.inbox / "a.jsonl"
    path.write_text("whole", encoding="utf-8")
    inbox.heard(path)
    assert inbox.was_heard()
    assert taken(inbox, time.monotonic()) == ["a.jsonl"]


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
    assert taken(inbox, now + SETTLED_S) == ["a.jsonl"]


def test_lanes_are_read_in_order(home: Home) -> None:
    """high, then the inbox itself, then low."""
    for lane in ("low", "", "high"):
        path = home.inbox / lane / f"{lane or 'normal'}.jsonl"
        path.write_text("x", encoding="utf-8")
        os.utime(path, (1.0, 1.0))
    inbox = Inbox(home)
    inbox.look(time.monotonic())
    found = [(path.name, priority) for path, priority in inbox.complete(time.monotonic())]
    assert found == [("high.jsonl", "high"), ("normal.jsonl", "normal"), ("low.jsonl", "low")]


def test_links_and_directories_are_not_taken(home: Home, tmp_path: Path) -> None:
    """A link could point out of the home; a directory is not a file."""
    (tmp_path / "outside.jsonl").write_text("x", encoding="utf-8")
    (home.inbox / "link.jsonl").symlink_to(tmp_path / "outside.jsonl")
    (home.inbox / "directory.jsonl").mkdir()
    inbox, now = Inbox(home), time.monotonic()
    assert taken(inbox, now) == []
    assert taken(inbox, now + 10 * SETTLED_S) == []


@pytest.mark.parametrize("name", [".hidden.jsonl", "a.jsonl.tmp", "a.part", "a.jsonl~", "a.crdownload"])
def test_names_that_say_unfinished_are_ignored(name: str) -> None:
    """Whatever is in them."""
    assert is_ignored(name)
