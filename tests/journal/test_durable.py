"""Files are replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from journal.durable import (
    claim_directory,
    copy_durably,
    fsync_file,
    fsync_tree,
    is_temporary,
    make_directory,
    read_file,
    rename_durably,
    rename_if_same_disk,
    temporary_path,
    write_atomically,
)
from journal.storage import Storage
from tests.journal.helpers import Faulty, Killed


@pytest.mark.parametrize("fault", ["kill", "EIO", "ENOSPC"])
@pytest.mark.parametrize("sync", [False, True])
def test_at_every_fault_the_old_or_the_new_file_is_there_whole(tmp_path: Path, sync: bool, fault: str) -> None:
    """Never half of either; and only a kill leaves files, under a name that says so."""
    path = tmp_path / "file"
    for call in range(1, 20):
        path.write_bytes(b"old")
        storage = Faulty(call, fault)
        try:
            write_atomically(path, b"newer", sync=sync, storage=storage)
        except (Killed, OSError):
            assert path.read_bytes() in (b"old", b"newer")
        else:
            assert path.read_bytes() == b"newer"
        others = [entry for entry in tmp_path.iterdir() if entry != path]
        assert all(is_temporary(entry.name) for entry in others)
        assert fault == "kill" or not others
        if storage.calls < call:
            return
    pytest.fail("never came to the end")


def test_synced_means_file_then_name_then_directory(tmp_path: Path) -> None:
    """The order is the promise."""
    storage = Faulty()
    write_atomically(tmp_path / "file", b"x", mode=0o600, sync=True, storage=storage)
    assert storage.names_called == ["write", "fsync", "rename", "fsync"]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


class Recording(Storage):
    """Tells what was synced and renamed, in order, by name."""

    def __init__(self) -> None:
        self.recording: list[str] = []
        self._open: dict[int, str] = {}

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        fd = super().open(path, flags, mode)
        self._open[fd] = "temporary" if is_temporary(path.name) else path.name
        return fd

    def fsync(self, fd: int) -> None:
        self.recording.append(f"fsync {self._open[fd]}")

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.recording.append(f"rename to {target.name}")


def test_a_tree_is_synced_with_every_name_in_it_the_deepest_first(tmp_path: Path) -> None:
    """A directory's names count for nothing before what they name."""
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    for path in (tree / "a", tree / "below" / "b"):
        path.write_bytes(b"x")
    (tree / "link").symlink_to(tmp_path)
    storage = Recording()
    fsync_tree(tree, storage=storage)
    assert storage.recording == ["fsync a", "fsync b", "fsync below", "fsync tree"]
    fsync_file(tree / "a", storage=storage)
    assert storage.recording[4:] == ["fsync a"]


def test_a_copy_is_synced_before_it_has_its_name_and_the_name_after(tmp_path: Path) -> None:
    """Only then may the original go."""
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "below").mkdir()
    storage = Recording()
    copy_durably(tmp_path / "a", tmp_path / "below" / "b", storage=storage)
    assert storage.recording == ["fsync temporary", "rename to b", "fsync below"]


def test_a_rename_is_synced_where_the_name_came_and_where_it_went(tmp_path: Path) -> None:
    """Else a power cut could show the file in both directories, or in none."""
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "from" / "a").write_bytes(b"x")
    storage = Recording()
    rename_durably(tmp_path / "from" / "a", tmp_path / "to" / "a", storage=storage)
    rename_durably(tmp_path / "to" / "a", tmp_path / "to" / "b", storage=storage)
    assert storage.recording == ["rename to a", "fsync to", "fsync from", "rename to b", "fsync to"]


def test_each_directory_that_had_to_be_made_is_synced_into_the_one_above(tmp_path: Path) -> None:
    """From the top down; and one that was there already too, for its maker may have been killed before that."""
    top = tmp_path / "top"
    top.mkdir()
    storage = Recording()
    make_directory(top / "a" / "b", storage=storage)
    make_directory(top / "a" / "b", storage=storage)
    assert storage.recording == ["fsync top", "fsync a", "fsync a"]


def test_a_copy_is_never_seen_half(tmp_path: Path) -> None:
    """Killed at every call: what was at the target, or the whole copy."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"newer")
    for call in range(1, 20):
        target.write_bytes(b"old")
        storage = Faulty(call)
        try:
            copy_durably(source, target, storage=storage)
        except Killed:
            assert target.read_bytes() in (b"old", b"newer")
        else:
            assert target.read_bytes() == b"newer"
            return
    pytest.fail("never came to the end")


def test_copies_and_renames(tmp_path: Path) -> None:
    """The plain cases."""
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "below").mkdir()
    copy_durably(tmp_path / "a", tmp_path / "below" / "b")
    rename_durably(tmp_path / "a", tmp_path / "c")
    fsync_tree(tmp_path)
    assert (tmp_path / "below" / "b").read_bytes() == (tmp_path / "c").read_bytes() == b"x" * 3_000_000
    assert not (tmp_path / "a").exists()


def test_a_directory_in_place_of_a_view_is_moved_aside(tmp_path: Path) -> None:
    """A view is made again; what is not a view is not touched."""
    for name in ("view", "file"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    write_atomically(tmp_path / "view", b"new", sync=False)
    assert (tmp_path / "view").read_bytes() == b"new"
    (aside,) = tmp_path.glob("view.aside-*")
    assert (aside / "mine").exists()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "file", b"new", sync=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["view", aside.name, "file"])


def test_a_directory_is_claimed_from_a_file_and_from_a_file_above_it(tmp_path: Path) -> None:
    """Both are kept under another name. A directory, and a link to one, stay what they are."""
    (tmp_path / "above").write_bytes(b"mine")
    claim_directory(tmp_path / "above" / "below")
    claim_directory(tmp_path / "above" / "below")
    (tmp_path / "other").symlink_to(tmp_path / "above")
    claim_directory(tmp_path / "other" / "below")
    assert (tmp_path / "above" / "below").is_dir()
    assert (tmp_path / "other").is_symlink()
    (aside,) = tmp_path.glob("above.aside-*")
    assert aside.read_bytes() == b"mine"


def test_a_file_that_is_far_too_large_is_not_read_whole(tmp_path: Path) -> None:
    """It takes no room on the disk, and would take all of the memory."""
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match=r"1,099,511,627,776 bytes.*at most"):
        read_file(tmp_path / "sparse")


def test_a_copy_is_no_wider_than_its_source(tmp_path: Path) -> None:
    """What nobody else could read, nobody else can read."""
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "a").chmod(0o400)
    copy_durably(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600


def test_a_long_name_leaves_room_for_what_makes_it_temporary(tmp_path: Path) -> None:
    """A name may have 255 bytes."""
    write_atomically(tmp_path / ("ü" * 127), b"x", sync=True)
    assert is_temporary(temporary_path(tmp_path / ("ü" * 127)).name)


def test_a_rename_says_whether_it_was_one(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"x")
    assert rename_if_same_disk(source, target)
    assert (source.exists(), target.read_bytes()) == (False, b"x")
