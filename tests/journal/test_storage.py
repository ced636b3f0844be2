"""The real disk: each method makes the system call that it is named for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from journal.durable import opened
from journal.storage import PRIVATE, REAL, NotAFile, Storage, set_file_mask


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


def test_a_file_that_is_being_written_is_distinguished_from_one_that_is_not(tmp_path: Path) -> None:
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


@pytest.mark.timeout(20)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT])
@pytest.mark.parametrize("kind", ["pipe", "link", "dangling link", "directory", "socket", "device"])
def test_only_a_file_is_opened_as_a_file(tmp_path: Path, kind: str, flags: int) -> None:
    """Nobody waits for a pipe, and nothing is read or written through a link."""
    path, victim = tmp_path / "it", tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to(victim)
        case "dangling link":
            path.symlink_to(tmp_path / "nothing")
        case "directory":
            path.mkdir()
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
        case "device":
            path = Path(os.devnull)
    before = list(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match=os.fspath(path)) as refused:
        REAL.open(path, flags)
    assert isinstance(refused.value, NotAFile) or kind == "directory"
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)
    assert victim.read_text(encoding="utf-8") == "precious"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_what_is_made_is_for_its_owner_alone(tmp_path: Path, umask: int) -> None:
    """Whatever the umask allows; and what the umask forbids stays forbidden."""
    before = os.umask(umask)
    try:
        with opened(REAL, tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o666):
            pass
        REAL.mkdir(tmp_path / "directory", 0o777)
    finally:
        os.umask(before)
    for name in ("file", "directory"):
        assert (tmp_path / name).stat().st_mode & (0o077 | umask) == 0
    with opened(REAL, tmp_path / "file", os.O_RDONLY) as fd:
        REAL.set_mode(fd, 0o666)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("mode", "mask"),
    [(0o700, 0o077), (0o755, 0o077), (0o2755, 0o077), (0o2700, 0o077), (0o2750, 0o027), (0o750, 0o077)],
)
def test_the_home_says_how_open_its_files_are(tmp_path: Path, mode: int, mask: int) -> None:
    """Only the mode that `init --group` gives lets a group in; an old home at 755 lets nobody in."""
    tmp_path.chmod(mode)
    before = os.umask(0)
    try:
        set_file_mask(tmp_path)
        assert Storage.mask == mask
    finally:
        os.umask(before)
        Storage.mask = PRIVATE
        tmp_path.chmod(0o700)


def test_a_mask_is_never_wider_than_the_umask(tmp_path: Path) -> None:
    """A group that was let in sees less of what is made under umask 077."""
    tmp_path.chmod(0o2750)
    before = os.umask(0o077)
    try:
        set_file_mask(tmp_path)
        assert Storage.mask == 0o077
    finally:
        os.umask(before)
        Storage.mask = PRIVATE
