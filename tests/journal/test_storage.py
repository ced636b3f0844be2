"""The real disk: each method makes the system call that it is named for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from journal.durable import opened
from journal.storage import REAL


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_a_sync_is_the_systems_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Of the very descriptor that it was given: nothing else would bring the bytes to the disk."""
    synced: list[int] = []
    monkeypatch.setattr(os, call, synced.append)
    with opened(REAL, tmp_path / "file", os.O_RDWR | os.O_CREAT) as fd:
        getattr(REAL, call)(fd)
        assert synced == [fd]


def test_a_dropped_cache_is_asked_for_before_what_follows_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the other order, the pages read ahead would be dropped again."""
    advised: list[tuple[int, int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *given: advised.append(given))
    with opened(REAL, tmp_path / "file", os.O_RDWR | os.O_CREAT) as fd:
        REAL.drop_cache(fd, 7)
        assert advised == [(fd, 7, 0, os.POSIX_FADV_DONTNEED), (fd, 7, 0, os.POSIX_FADV_WILLNEED)]


def test_a_lock_keeps_others_out_until_it_is_let_go(tmp_path: Path) -> None:
    """Readers together, a writer alone."""
    path, flags = tmp_path / "lock", os.O_RDWR | os.O_CREAT
    with opened(REAL, path, flags) as one, opened(REAL, path, flags) as two:
        assert REAL.try_lock(one)
        assert not REAL.try_lock(two)
        assert not REAL.try_lock(two, shared=True)
        REAL.unlock(one)
        assert REAL.try_lock(one, shared=True)
        assert REAL.try_lock(two, shared=True)
        assert not REAL.try_lock(two)


def test_a_child_process_inherits_no_descriptor(tmp_path: Path) -> None:
    """Else a worker would keep a lock that its daemon has let go."""
    with opened(REAL, tmp_path / "file", os.O_RDWR | os.O_CREAT) as fd:
        assert not os.get_inheritable(fd)


def test_a_file_that_somebody_writes_is_told_from_one_that_nobody_does(tmp_path: Path) -> None:
    """However it was opened; readers do not count, and nobody is disturbed by being asked about."""
    path = tmp_path / "file"
    with path.open("w", encoding="utf-8") as writer:
        assert REAL.is_open_for_writing(path)
        writer.write("still works")
    with path.open("rb"):
        assert not REAL.is_open_for_writing(path)
    with path.open("ab"):
        assert REAL.is_open_for_writing(path)
    assert path.read_text(encoding="utf-8") == "still works"


def test_what_cannot_be_opened_is_not_said_to_be_written(tmp_path: Path) -> None:
    """A link, a pipe that nobody writes into, nothing at all: who wants to read it is told, and nobody waits."""
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "nothing"):
        assert not REAL.is_open_for_writing(tmp_path / name)
