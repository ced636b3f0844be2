"""Files from outside: whose they are, and what becomes of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from cli.commands.control import add_files
from cli.commands.init import create_home
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.inbox.accept import accept_copy, accept_files, file_sha256, finish_arrivals
from cli.inbox.ownership import FileRefused, inbox_is_shared, safe_name
from journal.storage import NotAFile, Storage
from tests.cli.second_user import (
    NOBODY,
    another_user,
    exchange,
    needs_root,
    place_for_all,
    process_of_another_user,
)
from tests.cli.taking import take_from_inbox

SECRET = b'{"prompt": "the key", "completion": "is under the mat"}\n'


class Quick(Storage):
    """For tests of names, not of power cuts."""

    def fsync(self, fd: int) -> None: ...
    def fdatasync(self, fd: int) -> None: ...


@pytest.fixture
def store(home: Home) -> Iterator[EventStore]:
    with closing(EventStore.open(home)) as opened:
        yield opened


@pytest.fixture
def open_home() -> Iterator[Home]:
    """A home of root's, whose inbox every user can fill, on a quick disk."""
    with place_for_all() as place:
        home = Home(create_home(place / "home", model="nowhere").root, storage=Quick())
        home.root.chmod(0o711)
        home.inbox.chmod(0o777)
        yield home


def leaked(home: Home, secret: Path) -> list[Path]:
    """Files of the home that hold the secret and are not the secret itself under another name."""
    files = [path for path in home.root.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if not path.samefile(secret) and SECRET in path.read_bytes()]


@needs_root
@pytest.mark.parametrize("bait", ["symbolic link", "hard link"])
def test_a_file_exchanged_during_its_arrival_gives_nothing_away(open_home: Home, bait: str) -> None:
    """1,000 arrivals (two times 500), while another user exchanges the file for a link to what only root may read."""
    secret = open_home.root.parent / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    path, other = open_home.inbox / "x.jsonl", open_home.inbox / ".y"
    taken = 0
    with closing(EventStore.open(open_home)) as store, process_of_another_user(lambda: exchange(path, other)):
        for number in range(500):
            for name in (path, other):
                with suppress(FileNotFoundError):
                    name.unlink()
            if bait == "hard link":
                os.link(secret, other)
            else:
                other.symlink_to(secret)
            new = open_home.inbox / ".new"
            new.write_text(f"row {number}\n", encoding="utf-8")
            os.chown(new, NOBODY, NOBODY)
            new.rename(path)
            with suppress(FileNotFoundError, FileRefused):
                taken += len(take_from_inbox(store, path, "normal"))
        finish_arrivals(store)
    assert taken
    assert leaked(open_home, secret) == []
    assert not list((open_home.data / ".arriving").iterdir())
    assert secret.stat().st_mode & 0o777 == 0o600


@needs_root
def test_a_file_of_another_user_is_copied(open_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could otherwise change it after it was accepted, where the system does not tell who writes."""
    monkeypatch.setattr(Storage, "is_open_for_writing", lambda *_: False)
    path = open_home.inbox / "x.jsonl"
    with another_user():
        path.write_text("row\n", encoding="utf-8")
        writer = os.open(path, os.O_WRONLY)
    job = file_sha256(path)
    with closing(EventStore.open(open_home)) as store:
        take_from_inbox(store, path, "normal")
    os.write(writer, b"changed")
    os.close(writer)
    kept = open_home.data_file(job)
    assert not path.exists()
    assert (kept.stat().st_uid, kept.stat().st_mode & 0o777) == (0, 0o600)
    assert file_sha256(kept) == job


@needs_root
def test_a_file_of_another_user_that_a_crash_left_halfway_is_copied_too(open_home: Home) -> None:
    """The process that continues checks it again."""
    directory = open_home.data / ".arriving" / "normal-0123456789abcdef"
    directory.mkdir(parents=True)
    (directory / "x.jsonl").write_text("row\n", encoding="utf-8")
    os.chown(directory / "x.jsonl", NOBODY, NOBODY)
    with closing(EventStore.open(open_home)) as store:
        finish_arrivals(store)
    (kept,) = open_home.data.glob("*.jsonl")
    assert kept.stat().st_uid == 0


@needs_root
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_hard_link_in_an_inbox_of_many_may_not_name_our_file(open_home: Home, mode: int) -> None:
    """The maker of the link may not be allowed to read it. It stays, and the reason is reported."""
    secret = open_home.root.parent / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(mode)
    path = open_home.inbox / "x.jsonl"
    os.link(secret, path)
    said: list[str] = []
    with closing(EventStore.open(open_home)) as store:
        assert not list(accept_files(store, [(path, "normal")], lambda _, why: said.append(why)))
    assert path.exists()
    assert leaked(open_home, secret) == []
    assert "hard link" in said[0]
    assert "cp FILE INBOX" in said[0]


@needs_root
def test_a_hard_link_of_a_user_to_their_own_file_is_copied_if_all_may_read_it(open_home: Home) -> None:
    """Nothing becomes readable by it."""
    path = open_home.inbox / "x.jsonl"
    with another_user():
        path.write_text("row\n", encoding="utf-8")
        os.link(path, open_home.inbox / ".again")
    with closing(EventStore.open(open_home)) as store:
        assert take_from_inbox(store, path, "normal")
    (kept,) = open_home.data.glob("*.jsonl")
    assert (kept.stat().st_uid, kept.stat().st_nlink) == (0, 1)


@needs_root
def test_a_hard_link_to_a_file_of_another_user_is_refused(home: Home, store: EventStore) -> None:
    """Also in an inbox that nobody else can fill."""
    (home.root / "theirs").write_text("row\n", encoding="utf-8")
    os.chown(home.root / "theirs", NOBODY, NOBODY)
    os.link(home.root / "theirs", home.inbox / "x.jsonl")
    with pytest.raises(FileRefused, match="a file of another user"):
        take_from_inbox(store, home.inbox / "x.jsonl", "normal")
    assert (home.inbox / "x.jsonl").exists()


def test_what_leaves_the_inbox_never_gets_wider(home: Home, store: EventStore, drop: Callable[..., Path]) -> None:
    """Moved or copied, under any umask."""
    before = os.umask(0)
    try:
        for number, mode in enumerate((0o600, 0o644, 0o666)):
            path = drop(f"{mode:o}.jsonl", f"row {number}")
            path.chmod(mode)
            take_from_inbox(store, path, "normal")
            path = drop(f"copied-{mode:o}.jsonl", f"other {number}")
            path.chmod(mode)
            accept_copy(store, path, "normal")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in home.data.glob("*.jsonl")} == {0o600}


def test_a_file_that_others_open_as_it_is_taken_is_copied(
    home: Home, store: EventStore, drop: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who reads it can open it for writing through /proc as long as its mode lets them, and no mode takes that
    back."""
    path, asked = drop("a.jsonl", "row"), list[bool]()
    path.chmod(0o666)
    is_open = Storage.is_open_for_writing

    def opened_after_the_first_look(storage: Storage, file: Path) -> bool:
        asked.append(is_open(storage, file) and bool(asked))
        return asked[-1]

    monkeypatch.setattr(Storage, "is_open_for_writing", opened_after_the_first_look)
    with path.open("ab") as writer:
        take_from_inbox(store, path, "normal")
        writer.write(b"changed")
    assert asked == [False, True]
    (kept,) = home.data.glob("*.jsonl")
    assert kept.read_text(encoding="utf-8") == "row\n"


def test_another_file_system_is_asked_about_the_open_file_too(
    home: Home, store: EventStore, drop: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is exchanged between the look and the copy: what was looked at is copied, and the other one stays."""
    path, secret = drop("a.jsonl", "row"), home.root / "secret"
    secret.write_bytes(SECRET)
    rename = Storage.rename

    def other_disk(storage: Storage, source: Path, target: Path) -> None:
        if source != path:
            rename(storage, source, target)
            return
        path.unlink()
        path.symlink_to(secret)
        raise OSError(errno.EXDEV, "other disk")

    monkeypatch.setattr(Storage, "rename", other_disk)
    take_from_inbox(store, path, "normal")
    assert path.is_symlink()
    assert leaked(home, secret) == []


class Sticky(Storage):
    """The inbox is on another file system, and nothing in it may be removed."""

    def rename(self, source: Path, target: Path) -> None:
        if source.parent.name == "inbox":
            raise OSError(errno.EXDEV, "other disk")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        if path.parent.name == "inbox":
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        super().unlink(path)


def test_a_file_that_may_not_leave_the_inbox_is_not_accepted(home: Home, drop: Callable[..., Path]) -> None:
    """It would be copied at each look. It stays, its copy goes, and the reason is told."""
    path = drop("a.jsonl", "row")
    with closing(EventStore.open(Home(home.root, storage=Sticky()))) as store:
        with pytest.raises(FileRefused, match="Operation not permitted"):
            take_from_inbox(store, path, "normal")
        assert not len(store.state.queue)
    assert path.exists()
    assert not list((home.data / ".arriving").iterdir())


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(home: Home, store: EventStore, tmp_path: Path) -> None:
    """Added by its name, or put into the inbox a moment ago."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotAFile, match="pipe"):
        accept_copy(store, tmp_path / "pipe", "normal")
    os.mkfifo(home.inbox / "x.jsonl")
    assert not take_from_inbox(store, home.inbox / "x.jsonl", "normal")
    assert (home.inbox / "x.jsonl").is_fifo()
    assert not list((home.data / ".arriving").iterdir()), "a failed arrival leaves no directory"


def test_a_user_can_add_a_file_by_their_link(home: Home, tmp_path: Path) -> None:
    """The job has the name that the person gave."""
    (tmp_path / "real.jsonl").write_text("row\n", encoding="utf-8")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    add_files(home.root, [tmp_path / "link.jsonl"], "normal")
    with closing(EventStore.open(home)) as store:
        assert [job.name for job in store.state.queue] == ["link.jsonl"]


@needs_root
def test_a_link_of_another_user_is_not_followed(home: Home) -> None:
    """Its owner would choose which file of ours is read."""
    with place_for_all() as place:
        place.chmod(0o777)
        with another_user():
            (place / "link.jsonl").symlink_to("/etc/shadow")
        with pytest.raises(NotAFile, match="another user"):
            add_files(home.root, [place / "link.jsonl"], "normal")


@needs_root
def test_who_can_fill_an_inbox_is_seen_from_its_mode_and_owner(home: Home) -> None:
    """A sticky bit makes no difference: a new file needs no old one."""
    assert not inbox_is_shared(home)
    for mode in (0o777, 0o770, 0o1777):
        (home.inbox / "low").chmod(mode)
        assert inbox_is_shared(home)
    (home.inbox / "low").chmod(0o700)
    os.chown(home.inbox / "low", NOBODY, -1)
    assert inbox_is_shared(home)
    (home.inbox / "low").rmdir()
    assert not inbox_is_shared(home)


def test_a_long_name_is_cut_from_its_beginning() -> None:
    """So that there is room for what is added to it, and its suffix stays."""
    assert safe_name("ü" * 300 + ".jsonl") == "ü" * 97 + ".jsonl"


class Appended(Storage):
    """The inbox is on another file system. Another process adds a row to a file while it is copied."""

    is_done = False

    def rename(self, source: Path, target: Path) -> None:
        if source.parent.name == "inbox":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        super().rename(source, target)

    def read(self, fd: int, length: int, offset: int) -> bytes:
        found, path = super().read(fd, length, offset), Path(f"/proc/self/fd/{fd}").readlink()
        if path.parent.name == "inbox" and not self.is_done:
            self.is_done = True
            with path.open("ab") as file:
                file.write(b"more\n")
        return found


def test_a_file_that_grows_while_it_is_copied_stays_in_the_inbox(home: Home, drop: Callable[..., Path]) -> None:
    """The next look takes all of it."""
    path = drop("a.jsonl", "row")
    with closing(EventStore.open(Home(home.root, storage=Appended()))) as store:
        assert list(accept_files(store, [(path, "normal")], lambda *_: None)) == []
        assert path.read_bytes() == b"row\nmore\n"
        list(accept_files(store, [(path, "normal")], lambda *_: None))
        (job,) = store.state.queue
    assert not path.exists()
    assert home.data_file(job.id).read_bytes() == b"row\nmore\n"


@needs_root
def test_what_was_exchanged_before_the_move_goes_to_rejected(
    open_home: Home, drop: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was moved is looked at again, where nobody else can exchange it; it is told, and nothing of it is copied."""
    secret, path = open_home.root.parent / "secret", open_home.inbox / "x.jsonl"
    secret.write_bytes(SECRET)
    path.write_text("row\n", encoding="utf-8")
    rename = Storage.rename

    def exchanged(storage: Storage, source: Path, target: Path) -> None:
        if source == path:
            path.unlink()
            os.link(secret, path)
        rename(storage, source, target)

    monkeypatch.setattr(Storage, "rename", exchanged)
    said: list[str] = []
    with closing(EventStore.open(open_home)) as store:
        assert not list(accept_files(store, [(path, "normal")], lambda _, why: said.append(why)))
    assert "hard link" in said[0]
    report, moved = sorted(open_home.rejected.iterdir(), key=lambda each: each.name.endswith("x.jsonl"))
    assert moved.samefile(secret)
    assert b'"problem":"not_taken"' in report.read_bytes().replace(b" ", b"")
    assert leaked(open_home, secret) == []
