"""Locks: who can hold them, and who is named."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.commands.init import create_home
from cli.errors import UserError
from cli.home import identity
from cli.home.backups import backup_is_running, backup_lock_held
from cli.home.identity import DaemonLock, daemon_is_alive, flock_holders, lock_holder, this_process
from cli.home.paths import Home
from tests.cli.second_user import another_user, needs_root, place_for_all


def locks(home: Home) -> list[Path]:
    return [home.daemon_lock, home.backup_lock, home.journal / "lock"]


def test_every_lock_is_its_owners_alone(home: Home) -> None:
    """A user who can open a file can lock it. Lock files of an earlier keepstep are restricted when they are used."""
    for path in (home.daemon_lock, home.backup_lock):
        path.touch()
        path.chmod(0o644)
    lock = DaemonLock(home)
    lock.take(this_process())
    with backup_lock_held(home):
        assert {stat.S_IMODE(path.stat().st_mode) for path in locks(home)} == {0o600}
    lock.release()


@pytest.fixture
def open_home() -> Iterator[Home]:
    """A home whose directories every user can enter."""
    with place_for_all() as place:
        home = create_home(place / "home", model="nowhere")
        for path in (home.root, home.run, home.journal):
            path.chmod(0o755)
        yield home


@needs_root
def test_another_user_cannot_hold_a_lock(open_home: Home) -> None:
    """Not even where all directories above it are open."""
    with backup_lock_held(open_home):
        pass
    lock = DaemonLock(open_home)
    lock.take(this_process())
    lock.release()
    for path in locks(open_home):
        with another_user(), pytest.raises(PermissionError):
            os.open(path, os.O_RDONLY)


def test_a_process_is_named_only_if_it_holds_the_lock(home: Home) -> None:
    """The file names a daemon that is gone, or that lives and holds nothing, while somebody else has the lock."""
    lock = DaemonLock(home)
    lock.take(this_process())
    assert lock_holder(home) == this_process()
    lock.release()
    assert lock_holder(home) is None
    code = f"""
import fcntl, time
file = open({str(home.daemon_lock)!r})
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert lock_holder(home) is None
        with pytest.raises(UserError) as refused:
            DaemonLock(home).take(this_process())
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert str(os.getpid()) not in refused.value.reason
    assert "is not the daemon that the file names" in refused.value.reason
    assert "fuser -v" in refused.value.advice


def test_a_process_that_has_the_file_open_and_no_lock_is_not_named(home: Home) -> None:
    """As one that waits for it has."""
    lock = DaemonLock(home)
    lock.take(this_process())
    reading = os.open(home.daemon_lock, os.O_RDONLY)
    lock.release()
    assert lock_holder(home) is None
    os.close(reading)


@pytest.mark.skipif(flock_holders(Path(__file__)) is None, reason="this system has no list of locks")
def test_a_daemon_of_another_user_is_known_from_the_list_of_the_system(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its open files cannot be read."""
    list_directory = Path.iterdir

    def refused(path: Path) -> Iterator[Path]:
        if path.parts[1] == "proc":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return list_directory(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    lock = DaemonLock(home)
    lock.take(this_process())
    assert lock_holder(home) == this_process()
    lock.release()
    assert lock_holder(home) is None


@needs_root
@pytest.mark.parametrize("lock_is_held", [False, True])
def test_a_user_without_access_to_a_lock_sees_whether_it_is_held(open_home: Home, lock_is_held: bool) -> None:
    """From the list of the system; `status` asks it for a member of the group."""
    home = open_home
    home.daemon_lock.touch(0o600)
    with home.daemon_lock.open("rb") as file:
        if lock_is_held:
            fcntl.flock(file, fcntl.LOCK_EX)
        with another_user():
            assert daemon_is_alive(home) == lock_is_held
        assert flock_holders(home.daemon_lock) == ({os.getpid()} if lock_is_held else set())


def test_a_backup_that_is_made_is_seen(home: Home) -> None:
    """So that a daemon does not sweep it."""
    assert not backup_is_running(home)
    with backup_lock_held(home):
        assert backup_is_running(home)


def test_where_there_is_no_list_of_locks_an_open_file_has_to_do(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on macOS."""
    monkeypatch.setattr(identity, "PROC", tmp_path / "nothing")
    lock = DaemonLock(home)
    lock.take(this_process())
    assert lock_holder(home) == this_process()
    assert flock_holders(home.daemon_lock) is None
    lock.release()
    assert lock_holder(home) is None
