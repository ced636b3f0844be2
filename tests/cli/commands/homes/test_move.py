"""Moving a home, within a file system and to another one."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.commands.homes import move
from cli.commands.homes.move import move_home
from cli.errors import UserError
from cli.home.identity import DaemonLock, this_process
from cli.home.paths import Home

Drop = Callable[..., Path]
Run = Callable[..., list[str]]


@pytest.fixture
def trained(home: Home, drop: Drop, run: Run) -> Home:
    drop("a.jsonl", "ok ok ok")
    run()
    (home.root / "hook.sh").write_text("#!/bin/sh\n", encoding="utf-8")
    (home.root / "hook.sh").chmod(0o700)
    (home.root / "link").symlink_to("hook.sh")
    return home


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every destination is on another file system."""
    monkeypatch.setattr(move, "_rename", lambda _old, _new: False)


def content(root: Path) -> dict[str, object]:
    """Every file, link and mode below `root`, except the lock files."""
    return {
        str(path.relative_to(root)): (
            path.readlink() if path.is_symlink() else (path.stat().st_mode, path.is_file() and path.read_bytes())
        )
        for path in root.rglob("*")
        if "lock" not in path.name and path.name != "keepstep.toml"
    }


@pytest.mark.parametrize("copies", [False, True])
def test_a_moved_home_is_whole_and_the_old_one_is_gone(
    copies: bool, trained: Home, tmp_path: Path, request: pytest.FixtureRequest, run: Run
) -> None:
    """A daemon continues in the new place."""
    if copies:
        request.getfixturevalue("elsewhere")
    before, new = content(trained.root), tmp_path / "new"
    move_home(trained, new, json=False)
    assert content(new) == before
    assert not trained.root.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    trained.__init__(new)  # type: ignore[misc]  # the fixtures run the daemon of this object
    run()


def test_nothing_writes_to_a_home_while_it_moves(
    trained: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No daemon, no backup, no command: all locks are held."""
    rename, locks = move._rename, (trained.daemon_lock, trained.backup_lock, trained.journal / "lock")

    def locked(old: Path, new: Path) -> bool:
        for path in locks:
            with path.open() as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return rename(old, new)

    monkeypatch.setattr(move, "_rename", locked)
    move_home(trained, tmp_path / "new", json=False)
    assert not trained.root.exists()


def test_paths_in_the_config_follow(home: Home, tmp_path: Path) -> None:
    """Those into the home; others stay."""
    text = home.config.read_text(encoding="utf-8").replace('path = "nowhere"', f'path = "{home.root}/models/m"')
    home.config.write_text(text, encoding="utf-8")
    move_home(home, tmp_path / "new", json=False)
    assert f'path = "{tmp_path}/new/models/m"' in (tmp_path / "new" / "keepstep.toml").read_text(encoding="utf-8")


def test_a_move_that_was_killed_after_the_copy_is_finished_by_the_next(
    trained: Home, tmp_path: Path, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both homes are complete then; the new one is verified again."""
    retire = move._retire

    def killed(_old: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(move, "_retire", killed)
    with pytest.raises(KeyboardInterrupt):
        move_home(trained, tmp_path / "new", json=False)
    assert content(tmp_path / "new") == content(trained.root)
    monkeypatch.setattr(move, "_retire", retire)
    move_home(trained, tmp_path / "new", json=False)
    assert not trained.root.exists()


def test_a_copy_that_differs_leaves_the_home_where_it_is(
    trained: Home, tmp_path: Path, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk wrote something else."""
    copy = move._copy_tree

    def spoiled(source: Path, target: Path) -> None:
        copy(source, target)
        if target.name == "hook.sh":
            target.write_text("#!/bin/zsh", encoding="utf-8")

    monkeypatch.setattr(move, "_copy_tree", spoiled)
    with pytest.raises(UserError, match=r"hook\.sh differs from .*; the home stays where it is"):
        move_home(trained, tmp_path / "new", json=False)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_what_a_move_would_break_is_refused(trained: Home, tmp_path: Path) -> None:
    """And nothing is moved."""

    def refusal(destination: Path) -> str:
        with pytest.raises(UserError) as refused:
            move_home(trained, destination, json=False)
        assert trained.config.exists()
        return refused.value.reason

    assert "exists already" in refusal(tmp_path)
    assert "is in it" in refusal(trained.root / "data" / "new")
    assert "is not a directory" in refusal(tmp_path / "no" / "new")
    (trained.root / "outside").symlink_to("../outside")
    assert "a relative path out of the home" in refusal(tmp_path / "new")
    (trained.root / "outside").unlink()
    (trained.root / "inside").symlink_to(trained.root / "hook.sh")
    assert "an absolute path into the home" in refusal(tmp_path / "new")
    (trained.root / "inside").unlink()
    lock = DaemonLock(trained)
    lock.take(this_process())
    assert "a daemon already runs" in refusal(tmp_path / "new")
    lock.release()
