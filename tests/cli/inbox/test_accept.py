"""How a file becomes a job: from every place where a crash can leave it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cli.commands.init import lay_out
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.inbox import accept
from cli.inbox.accept import (  # type: ignore[attr-defined]
    accept_copy,
    file_sha256,
    finish_arrivals,
    move_to_rejected,
    remove_job,
    safe_name,
    skip_job,
)
from core.errors import Refused
from events.kinds import AnyEvent, FileDuplicate, FileEnqueued, JobTrained
from journal.storage import Storage
from tests.cli.taking import take_from_inbox
from tests.harness.syncs import Syncs


class Killed(BaseException):
    """Stands for the process ending at that point."""


@pytest.fixture
def store(home: Home) -> Iterator[EventStore]:
    opened = EventStore.open(home)
    yield opened
    opened.close()


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def arm(point: str) -> None:
        def failpoint(name: str) -> None:
            if name == point:
                raise Killed

        monkeypatch.setattr(accept, "failpoint", failpoint)

    return arm


def test_a_file_is_moved_under_its_hash(home: Home, store: EventStore, drop: Callable[..., Path]) -> None:
    """Out of the inbox, into data/, one job with its name and size."""
    path = drop("a.jsonl", "ok ok")
    job = file_sha256(path)
    take_from_inbox(store, path, "high")
    assert not path.exists()
    assert home.data_file(job).read_text(encoding="utf-8") == "ok\nok\n"
    waiting = store.state.queue.front()
    assert waiting is not None
    assert (waiting.id, waiting.name, waiting.size_bytes, waiting.priority) == (job, "a.jsonl", 6, "high")


@pytest.mark.parametrize("point", ["arrival_moved", "arrival_journaled", "arrival_named"])
def test_killed_anywhere_the_file_is_taken_on_once(
    point: str, home: Home, drop: Callable[..., Path], die_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start finds it where it is and arrives at the same end: one job, its name kept."""
    path = drop("a.jsonl", "ok", "low")
    job = file_sha256(path)
    dying = EventStore.open(home)
    die_at(point)
    with pytest.raises(Killed):
        take_from_inbox(dying, path, "low")
    dying.close()
    monkeypatch.undo()
    again = EventStore.open(home)
    finish_arrivals(again)
    finish_arrivals(again)
    assert [(waiting.id, waiting.name, waiting.priority) for waiting in again.state.queue] == [(job, "a.jsonl", "low")]
    assert again.state.outcomes.counts.duplicates == 0
    assert home.data_file(job).exists()
    assert not list((home.data / ".arriving").iterdir())
    again.close()


def test_a_skipped_file_that_was_on_its_way_is_not_accepted_again(
    home: Home, drop: Callable[..., Path], die_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process died between journaling it and naming it; skipped there and then it must not become unknown."""
    path = drop("a.jsonl", "ok")
    job = file_sha256(path)
    dying = EventStore.open(home)
    die_at("arrival_journaled")
    with pytest.raises(Killed):
        take_from_inbox(dying, path, "normal")
    dying.close()
    monkeypatch.undo()
    with closing(EventStore.open(home)) as again:
        skip_job(again, job)
        finish_arrivals(again)
        assert not len(again.state.queue)
        assert home.data_file(job).exists()


def test_a_copy_leaves_the_original_where_it_is(home: Home, store: EventStore, tmp_path: Path) -> None:
    """`keepstep add` never moves what a person keeps elsewhere."""
    path = tmp_path / "mine.jsonl"
    path.write_text("ok\n", encoding="utf-8")
    accept_copy(store, path, "normal")
    assert path.exists()
    assert len(store.state.queue) == 1


def test_half_a_copy_is_never_believed(home: Home, store: EventStore) -> None:
    """A copy that was cut off is removed: its source is where it was."""
    directory = home.data / ".arriving" / "normal-0123456789abcdef"
    directory.mkdir(parents=True)
    (directory / ".a.jsonl.01234567.tmp").write_text("half", encoding="utf-8")
    finish_arrivals(store)
    assert len(store.state.queue) == 0
    assert not directory.exists()


def test_an_arrival_that_another_process_is_at_is_left_alone(home: Home, store: EventStore) -> None:
    """A daemon that starts while `keepstep add` copies does not take the copy from under it."""
    import fcntl

    directory = home.data / ".arriving" / "normal-0123456789abcdef"
    directory.mkdir(parents=True)
    (directory / ".a.jsonl.01234567.tmp").write_text("half", encoding="utf-8")
    fd = os.open(directory, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    finish_arrivals(store)
    assert (directory / ".a.jsonl.01234567.tmp").exists()
    os.close(fd)


def test_the_same_bytes_again_are_known_and_kept(home: Home, store: EventStore, drop: Callable[..., Path]) -> None:
    """Under any name; the second file goes to rejected/ with a word about why, for it may not be ours to delete."""
    take_from_inbox(store, drop("a.jsonl", "ok"), "normal")
    events = take_from_inbox(store, drop("b.jsonl", "ok"), "normal")
    assert [type(event) for event in events] == [FileDuplicate]
    assert len(store.state.queue) == 1
    assert json.loads((home.rejected / "b.jsonl.report.json").read_bytes())["problem"] == "duplicate"
    assert (home.rejected / "b.jsonl").exists()


def test_nothing_in_rejected_is_overwritten(home: Home, store: EventStore, drop: Callable[..., Path]) -> None:
    """Two rejected files of one name are two files."""
    take_from_inbox(store, drop("a.jsonl", "ok"), "normal")
    for _ in range(2):
        take_from_inbox(store, drop("a.jsonl", "ok"), "normal")
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


def test_names_of_any_bytes_are_taken(home: Home, store: EventStore) -> None:
    """Newlines, quotes, emoji, and bytes that are no UTF-8."""
    for number, name in enumerate(
        [b"new\nline.jsonl", '"😀".jsonl'.encode(), b"\xff\xfe.jsonl", b"x" * 240 + b".jsonl"]
    ):
        path = Path(os.fsdecode(os.fsencode(home.inbox) + b"/" + name))
        path.write_text(f"ok {number}\n", encoding="utf-8")
        take_from_inbox(store, path, "normal")
    names = [job.name for job in store.state.queue]
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
    store = EventStore.open(Home(home.root, storage=Elsewhere()))
    take_from_inbox(store, path, "normal")
    store.close()
    assert not path.exists()
    assert home.data_file(job).read_text(encoding="utf-8") == "ok\nok\n"


def test_a_move_that_was_done_is_said_to_be_where_it_was_done(home: Home, tmp_path: Path) -> None:
    """Killed between the move and its record: the file of an earlier night that has the name is another one."""
    for night in ("first", "second"):
        (tmp_path / "a.jsonl").write_text(night, encoding="utf-8")
        moved = move_to_rejected(home, tmp_path / "a.jsonl", "a.jsonl", {})
        assert move_to_rejected(home, tmp_path / "a.jsonl", "a.jsonl", {}) == moved
        assert moved.read_text(encoding="utf-8") == night


def test_an_init_that_was_killed_leaves_no_files(tmp_path: Path) -> None:
    """Given again, it makes what was missing and removes what was not finished."""
    home = Home(tmp_path / "home")
    home.root.mkdir()
    (home.root / ".keepstep.toml.01234567.tmp").write_text("half", encoding="utf-8")
    lay_out(home, b"")
    assert home.config.exists()
    assert not [path for path in home.root.iterdir() if path.name.startswith(".")]


class Forgetful(Storage):
    """Its process dies when it has made known bytes unknown."""

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        if path.parent.name == "data":
            raise Killed


@pytest.fixture
def trained_before(home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], tmp_path: Path) -> Path:
    """A copy of a file of two steps that was trained before."""
    path = tmp_path / "once-more.jsonl"
    path.write_text("ok\nok\n", encoding="utf-8")
    drop("a.jsonl", "ok ok")
    run()
    return path


@pytest.mark.parametrize("point", ["arrival_copied", "forgotten", "arrival_journaled", "arrival_named"])
def test_killed_anywhere_bytes_are_trained_again_once(
    point: str,
    home: Home,
    trained_before: Path,
    die_at: Callable[[str], None],
    run: Callable[..., list[str]],
    events: Callable[[], list[AnyEvent]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`add --again` dies, and the next daemon takes the copy on: one pass more, not two, and none is lost."""
    job = file_sha256(trained_before)
    with closing(EventStore.open(Home(home.root, storage=Forgetful()) if point == "forgotten" else home)) as dying:
        if point != "forgotten":
            die_at(point)
        with pytest.raises(Killed):
            accept_copy(dying, trained_before, "high", again=True)
    monkeypatch.undo()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    run()
    run()
    assert home.data_file(job).read_bytes() == trained_before.read_bytes()
    assert not list((home.data / ".arriving").iterdir())
    passes = [event.retrain for event in events() if isinstance(event, FileEnqueued)]
    assert passes == [False, True]
    assert [type(event) for event in events()].count(JobTrained) == 2


def test_bytes_in_progress_are_not_trained_again_now(home: Home, store: EventStore, tmp_path: Path) -> None:
    """Refused with the name that they have there; nothing is left on its way, and the job keeps its file."""
    path = tmp_path / "a.jsonl"
    path.write_text("ok\n", encoding="utf-8")
    accept_copy(store, path, "normal")
    with pytest.raises(Refused, match=r"a\.jsonl is identical to a\.jsonl, which is in progress"):
        accept_copy(store, path, "normal", again=True)
    assert not list((home.data / ".arriving").iterdir())
    assert home.data_file(file_sha256(path)).exists()
    assert len(store.state.queue) == 1


def test_a_second_pass_that_was_on_its_way_when_another_began_is_let_go(
    home: Home, trained_before: Path, die_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two users asked, one was killed: it is trained again once, and no copy is left over."""
    with closing(EventStore.open(home)) as dying:
        die_at("arrival_copied")
        with pytest.raises(Killed):
            accept_copy(dying, trained_before, "normal", again=True)
    monkeypatch.undo()
    with closing(EventStore.open(home)) as store:
        accept_copy(store, trained_before, "normal", again=True)
        finish_arrivals(store)
        assert len(store.state.queue) == 1
    assert not list((home.data / ".arriving").iterdir())


@pytest.mark.parametrize("point", ["report_written", "rejected_moved"])
def test_a_job_that_was_taken_out_loses_no_file(
    point: str,
    home: Home,
    drop: Callable[..., Path],
    die_at: Callable[[str], None],
    run: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed on the way, the next daemon finishes it: the file is in rejected/, once, and can be dropped in again."""
    path = drop("a.jsonl", "ok")
    job = file_sha256(path)
    with closing(EventStore.open(home)) as dying:
        take_from_inbox(dying, path, "normal")
        die_at(point)
        with pytest.raises(Killed):
            remove_job(dying, job)
    monkeypatch.undo()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    run()
    assert sorted(path.name for path in home.rejected.iterdir()) == ["a.jsonl", "a.jsonl.report.json"]
    assert not home.data_file(job).exists()
    (home.rejected / "a.jsonl").rename(home.inbox / "a.jsonl")
    os.utime(home.inbox / "a.jsonl", (1.0, 1.0))
    assert any("a.jsonl: trained" in line for line in run())


def test_a_file_that_has_another_name_is_copied(home: Home, store: EventStore, drop: Callable[..., Path]) -> None:
    """What is written under that name later does not reach what was accepted."""
    path = drop("a.jsonl", "ok")
    job = file_sha256(path)
    other = home.root.parent / "mine.jsonl"
    os.link(path, other)
    take_from_inbox(store, path, "normal")
    other.write_text("changed\n", encoding="utf-8")
    assert not path.exists()
    assert home.data_file(job).read_text(encoding="utf-8") == "ok\n"


def test_a_deleted_or_changed_inbox_does_not_reach_what_was_accepted(
    home: Home, store: EventStore, drop: Callable[..., Path]
) -> None:
    """The name is free again, and the bytes are elsewhere."""
    path = drop("a.jsonl", "ok")
    job = file_sha256(path)
    take_from_inbox(store, path, "normal")
    path.write_text("other\n", encoding="utf-8")
    path.unlink()
    assert home.data_file(job).read_text(encoding="utf-8") == "ok\n"


def test_what_became_a_link_before_it_was_moved_is_not_taken(home: Home, store: EventStore, tmp_path: Path) -> None:
    """Between the look and the move anything can happen; it stays where it is."""
    (home.inbox / "a.jsonl").symlink_to(tmp_path / "secret")
    assert list(accept.accept_files(store, [(home.inbox / "a.jsonl", "normal")], lambda *_: None)) == []
    assert (home.inbox / "a.jsonl").is_symlink()


@pytest.mark.parametrize("what", ["link", "dangling", "directory"])
def test_nothing_is_read_through_what_became_no_file(
    what: str, home: Home, store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found during its arrival: moved to rejected/ with a report, and no job is made."""
    syncs, secret = Syncs(monkeypatch), tmp_path / "secret"
    secret.write_text("secret\n", encoding="utf-8")
    directory = home.data / ".arriving" / "normal-0123456789abcdef"
    directory.mkdir(parents=True)
    if what == "directory":
        (directory / "a.jsonl").mkdir()
    else:
        (directory / "a.jsonl").symlink_to(secret if what == "link" else tmp_path / "nothing")
    finish_arrivals(store)
    assert not directory.exists()
    assert not len(store.state.queue)
    names = sorted(path.name for path in home.rejected.iterdir())
    assert names == ["normal-0123456789abcdef-a.jsonl", "normal-0123456789abcdef-a.jsonl.report.json"]
    assert syncs.lacks(home.rejected / names[1]) == []
    assert secret.read_text(encoding="utf-8") == "secret\n"


def test_a_duplicate_names_the_first_one_while_that_is_at_hand(
    home: Home, store: EventStore, drop: Callable[..., Path]
) -> None:
    """In its report; later its id is what there is."""
    take_from_inbox(store, drop("a.jsonl", "ok"), "normal")
    take_from_inbox(store, drop("b.jsonl", "ok"), "normal")
    report = json.loads((home.rejected / "b.jsonl.report.json").read_bytes())
    assert report["first"] == "a.jsonl"
    assert "identical to a.jsonl, which was in progress" in report["message"]
