"""The directories of a home and their modes."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cli.commands.init import create_home
from cli.doctor import home as checks_home
from cli.doctor.context import DoctorContext
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.layout import find_too_open, make_directories, restrict_modes
from cli.home.paths import Home, find_home
from cli.status.report import read_current
from journal.storage import PRIVATE, Storage
from tests.cli.second_user import NOBODY, another_user, needs_root, place_for_all
from tests.cli.taking import take_from_inbox


@pytest.fixture(autouse=True)
def mask() -> Iterator[None]:
    yield
    Storage.mask = PRIVATE


def modes(root: Path) -> set[int]:
    """What others may do with anything of a home."""
    return {stat.S_IMODE(path.lstat().st_mode) & 0o7077 for path in (root, *root.rglob("*"))}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_home_is_its_owners_alone(
    tmp_path: Path, umask: int, run: Callable[..., list[str]], drop: Callable[..., Path], home: Home
) -> None:
    """From `init` on, and with everything that a daemon makes in it, under any umask."""
    before = os.umask(umask)
    try:
        new = create_home(tmp_path / "new", model="nowhere")
        assert modes(new.root) == {0}
        drop("a.jsonl", "ok ok ok ok").chmod(0o600)
        drop("b.jsonl", "bad")
        run(until_idle=True)
    finally:
        os.umask(before)
    ours = [path for path in home.root.rglob("*") if home.checkpoints not in path.parents]  # those of the fake worker
    assert {path for path in ours if stat.S_IMODE(path.lstat().st_mode) & 0o077} == set()


def test_an_existing_directory_is_closed_when_it_becomes_a_home(tmp_path: Path) -> None:
    """Whatever it was before."""
    (tmp_path / "home").mkdir(mode=0o755)
    create_home(tmp_path / "home", model="nowhere")
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_doctor_narrows_an_old_home(home: Home) -> None:
    """As earlier versions made it; what has a second name elsewhere is left alone."""
    (home.data / "0.jsonl").write_text("row\n", encoding="utf-8")
    (home.checkpoints / "linked").write_text("row\n", encoding="utf-8")
    os.link(home.checkpoints / "linked", home.root / "mine")
    for path in (home.root, *home.root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    found = checks_home.permissions(DoctorContext(home))
    assert found.level == "warn"
    assert "doctor --fix" in found.advice
    assert checks_home.restrict_permissions(DoctorContext(home))
    assert checks_home.permissions(DoctorContext(home)).level == "pass"
    assert [path for path in home.root.rglob("*") if path.stat().st_mode & 0o077] == [
        path for path in home.root.rglob("*") if path.name in {"linked", "mine"}
    ]


def test_doctor_reports_files_that_others_can_write(home: Home) -> None:
    """A version that was made under umask 000, inside a home that is closed."""
    (home.versions / "v001").mkdir(mode=0o777)
    (home.versions / "v001").chmod(0o777)
    assert checks_home.permissions(DoctorContext(home)).level == "warn"
    restrict_modes(home)
    assert checks_home.permissions(DoctorContext(home)).level == "pass"


@needs_root
def test_a_group_is_let_in_on_purpose() -> None:
    """Its members read the status and fill the inbox; they read no config, and write nothing else."""
    with place_for_all() as place:
        group = grp.getgrgid(NOBODY).gr_name
        home = create_home(place / "home", model="nowhere", group=group)
        assert stat.S_IMODE(home.root.stat().st_mode) == 0o2750
        with closing(EventStore.open(find_home(home.root))) as store:
            store.write_status()
            with another_user():
                (home.inbox / "x.jsonl").write_text("row\n", encoding="utf-8")
                view, alive = read_current(home)
                assert (view.daemon.status, alive) == ("off", False)
                for path in (home.root, home.data, home.journal, home.status.parent):
                    with pytest.raises(PermissionError):
                        (path / "new").touch()
                with pytest.raises(PermissionError):
                    home.config.read_bytes()
            take_from_inbox(store, home.inbox / "x.jsonl", "normal")
        (kept,) = home.data.glob("*.jsonl")
        assert (stat.S_IMODE(kept.stat().st_mode), kept.stat().st_uid) == (0o640, 0)
        assert list(find_too_open(home)) == []
        assert f"the group {group} may read it" in checks_home.permissions(DoctorContext(home)).message


def test_a_group_that_is_none_is_refused(tmp_path: Path) -> None:
    """Before anything is made that would have to be taken back."""
    with pytest.raises(UserError, match="no group of-nobody"):
        create_home(tmp_path / "home", model="nowhere", group="of-nobody")
    assert not (tmp_path / "home" / "keepstep.toml").exists()


@pytest.mark.parametrize("name", ["status", "inbox", "inbox/low", "logs", "run", "reports", "cache/tokens", "cache"])
@pytest.mark.parametrize("kind", ["file", "pipe", "dangling link"])
def test_what_stands_in_place_of_a_directory_is_moved_aside(home: Home, name: str, kind: str) -> None:
    """And a new one is made: nothing is in it that is not made again."""
    path = home.root / name
    if path.is_dir():
        path.rename(home.root / "old")
    path.parent.mkdir(exist_ok=True)
    if kind == "file":
        path.write_text("mine", encoding="utf-8")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(home.root / "nowhere")
    (aside,) = make_directories(home)
    assert aside.name.startswith(f"{path.name}.aside-")
    assert "cache" in name or path.is_dir()
    if kind == "file":
        assert aside.read_text(encoding="utf-8") == "mine"
    assert make_directories(home) == []


def test_what_stands_in_place_of_the_data_is_not_touched(home: Home) -> None:
    """What is missing there was not made by keepstep alone."""
    home.data.rmdir()
    home.data.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="is not a directory"):
        make_directories(home)
    assert home.data.read_text(encoding="utf-8") == "mine"
