"""How a file becomes a job: from every place where a crash can leave it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cli import arrivals
from cli.arrivals import (
    file_sha256,
    finish_arrivals,
    put_in_rejected,
    safe_name,
    skip_job,
    take_copy,
    take_from_inbox,
)
from cli.home import Home
from cli.init import lay_out
from cli.ledger import Ledger
from events.kinds import FileDuplicate
from journal.storage import Storage


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
    assert [type(event) for event in events] == [FileDuplicate]
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
    assert names[:3] == ["new\\nline.jsonl", '"😀".jsonl', "\\xff\\xfe.jsonl"]
    assert len(names) == 4


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
