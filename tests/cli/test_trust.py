"""Whose home is obeyed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.config import load_config
from cli.errors import UserError
from cli.home import Home, find_home
from cli.hooks import write_note
from cli.identity import DaemonLock, this_process
from cli.init import create_home
from cli.layout import make_directories
from cli.trust import TRUST, Foreign, followed
from journal import Position
from journal.storage import NotAFile
from tests.cli.second_user import NOBODY, needs_root, place_for_all

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stranger() -> Iterator[Home]:
    """A home that belongs to another user."""
    with place_for_all() as place:
        home = create_home(place / "home", model="nowhere")
        for path in (home.root, *home.root.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        yield home


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_root
def test_a_home_of_a_stranger_runs_nothing_and_is_not_written(stranger: Home, tmp_path: Path) -> None:
    """Found upwards from a directory below it, as git finds its repository; reading is allowed."""
    text = stranger.config.read_text(encoding="utf-8")
    hook = f'on_daemon_started = "touch {tmp_path / "was-here"}"'
    stranger.config.write_text(text + f"\n[hooks]\n{hook}\n" if "[hooks]" not in text else text, encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in stranger.root.rglob("*")}
    for arguments in (["run", "--until-idle"], ["pause"], ["config", "set", "training.epochs", "2"], ["hooks", "test"]):
        said = command(*arguments, cwd=stranger.inbox)
        assert said.returncode == 1, arguments
        assert "belongs to nobody, and you are root" in said.stderr
        assert f"{TRUST}={stranger.root}" in said.stderr
        assert f"keepstep --trust-home {stranger.root} " in said.stderr
    assert command("status", cwd=stranger.inbox).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in stranger.root.rglob("*")} == before
    assert not (tmp_path / "was-here").exists()


@needs_root
def test_a_stranger_is_trusted_by_name(stranger: Home) -> None:
    """That home, and no other."""
    assert command("pause", cwd=stranger.root, **{TRUST: "/elsewhere"}).returncode == 1
    said = command("pause", cwd=stranger.root, **{TRUST: f"/elsewhere:{stranger.root}"})
    assert said.returncode == 0, said.stderr
    assert command("--trust-home", "/elsewhere", "resume", cwd=stranger.root).returncode == 1
    said = command("--trust-home", "/elsewhere", "--trust-home", ".", "resume", cwd=stranger.root)
    assert said.returncode == 0, said.stderr


def test_a_path_that_the_variable_cannot_carry_is_refused(tmp_path: Path) -> None:
    """Each part of it would be trusted."""
    said = command("--trust-home", "/srv/a:b", "pause", cwd=tmp_path)
    assert said.returncode == 1
    assert "takes no path with ':'" in said.stderr


@needs_root
def test_a_config_of_a_stranger_in_our_own_home_is_refused(home: Home) -> None:
    """By its open file, each time that it is read: a daemon reads it again and again."""
    os.chown(home.config, NOBODY, -1)
    with pytest.raises(Foreign):
        find_home(home.root)
    with pytest.raises(Foreign):
        load_config(home.config)


@needs_root
def test_roots_home_is_trusted_by_everybody(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root can do anything anyway."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert find_home(home.root).root == home.root


@pytest.mark.parametrize("name", ["", "keepstep.toml"])
def test_a_home_that_anybody_may_write_to_is_refused(home: Home, name: str) -> None:
    """Anybody could name commands in it. `doctor --fix` may go there, and closes it."""
    path = home.root / name
    path.chmod(path.stat().st_mode | 0o002)
    with pytest.raises(UserError, match="anybody may write") as refused:
        find_home(home.root)
    assert "doctor --fix" in refused.value.advice
    assert find_home(home.root, closes_it=True).root == home.root
    assert command("doctor", "--fix", cwd=home.root).returncode in {0, 1}
    assert find_home(home.root).root == home.root


@pytest.mark.parametrize("name", ["run/daemon.lock", "status/hooks.json"])
def test_nothing_is_written_through_a_link(home: Home, tmp_path: Path, name: str) -> None:
    """Whoever put it there would choose the file."""
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    (home.root / name).symlink_to(victim)
    if name == "run/daemon.lock":
        with pytest.raises(NotAFile, match="symbolic link"):
            DaemonLock(home).take(this_process())
    else:
        write_note(home, Position(2, "00000000", 1, 400))
        assert not (home.root / name).is_symlink()
    assert victim.read_text(encoding="utf-8") == "precious"


@needs_root
def test_a_directory_may_be_a_link_of_ours_and_of_nobody_else(home: Home, tmp_path: Path) -> None:
    """Checkpoints may lie on a larger disk."""
    for directory in (home.checkpoints, home.status.parent):
        shutil.rmtree(directory)
        (tmp_path / directory.name).mkdir()
        directory.symlink_to(tmp_path / directory.name)
    assert make_directories(home) == []
    os.chown(home.status.parent, NOBODY, -1, follow_symlinks=False)
    with pytest.raises(UserError, match="a link that nobody made"):
        make_directories(home)


def test_a_config_may_be_a_link_of_ours(home: Home, tmp_path: Path) -> None:
    """As people keep their configs elsewhere; a change is written there."""
    shutil.move(home.config, tmp_path / "mine.toml")
    home.config.symlink_to(tmp_path / "mine.toml")
    said = command("config", "set", "training.epochs", "7", cwd=home.root)
    assert said.returncode == 0, said.stderr
    assert home.config.is_symlink()
    assert load_config(home.config).job.training.epochs == 7


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    """In a sentence."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(NotAFile, match="circle"):
        followed(tmp_path / "a")
