"""Files are replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from journal.durable import copy_durably, fsync_tree, is_temporary, rename_durably, write_atomically
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


def test_copies_and_renames(tmp_path: Path) -> None:
    """The plain cases."""
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "below").mkdir()
    copy_durably(tmp_path / "a", tmp_path / "below" / "b")
    rename_durably(tmp_path / "a", tmp_path / "c")
    fsync_tree(tmp_path)
    assert (tmp_path / "below" / "b").read_bytes() == (tmp_path / "c").read_bytes() == b"x" * 3_000_000
    assert not (tmp_path / "a").exists()
