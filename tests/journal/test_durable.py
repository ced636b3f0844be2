"""Files are replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from journal.durable import (
    copy_durably,
    fsync_file,
    fsync_tree,
    is_temporary,
    make_directory,
    rename_durably,
    write_atomically,
)
from journal.storage import Storage
from tests.journal.helpers import Faulty, Killed


@pytest.mark.parametrize("fault", ["kill", "EIO", "ENOSPC"])
@pytest.mark.parametrize("sync", [False, True])
def test_at_every_fault_the_old_or_the_new_file_is_there_whole(tmp_path: Path, sync: bool, fault: str) -> None:
    """Never half of either; and only a kill leaves debris, under a name that says so."""
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


class Told(Storage):
    """Tells what was synced and renamed, in order, by name."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._open: dict[int, str] = {}

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        fd = super().open(path, flags, mode)
        self._open[fd] = "temporary" if is_temporary(path.name) else path.name
        return fd

    def fsync(self, fd: int) -> None:
        self.told.append(f"fsync {self._open[fd]}")

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.told.append(f"rename to {target.name}")


def test_a_tree_is_synced_with_every_name_in_it_the_deepest_first(tmp_path: Path) -> None:
    """A directory's names count for nothing before what they name."""
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    for path in (tree / "a", tree / "below" / "b"):
        path.write_bytes(b"x")
    (tree / "link").symlink_to(tmp_path)
    storage = Told()
    fsync_tree(tree, storage=storage)
    assert storage.told == ["fsync a", "fsync b", "fsync below", "fsync tree"]
    fsync_file(tree / "a", storage=storage)
    assert storage.told[4:] == ["fsync a"]


def test_a_copy_is_synced_before_it_has_its_name_and_the_name_after(tmp_path: Path) -> None:
    """Only then may the original go."""
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "below").mkdir()
    storage = Told()
    copy_durably(tmp_path / "a", tmp_path / "below" / "b", storage=storage)
    assert storage.told == ["fsync temporary", "rename to b", "fsync below"]


def test_a_rename_is_synced_where_the_name_came_and_where_it_went(tmp_path: Path) -> None:
    """Else a power cut could show the file in both directories, or in none."""
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "from" / "a").write_bytes(b"x")
    storage = Told()
    rename_durably(tmp_path / "from" / "a", tmp_path / "to" / "a", storage=storage)
    rename_durably(tmp_path / "to" / "a", tmp_path / "to" / "b", storage=storage)
    assert storage.told == ["rename to a", "fsync to", "fsync from", "rename to b", "fsync to"]


def test_each_directory_that_had_to_be_made_is_synced_into_the_one_above(tmp_path: Path) -> None:
    """From the top down; and one that was there already too, for its maker may have been killed before that."""
    top = tmp_path / "top"
    top.mkdir()
    storage = Told()
    make_directory(top / "a" / "b", storage=storage)
    make_directory(top / "a" / "b", storage=storage)
    assert storage.told == ["fsync top", "fsync a", "fsync a"]


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
