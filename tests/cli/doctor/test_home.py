"""Checks of the directory itself."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from cli.daemon.sweep import sweep_temporaries
from cli.doctor import home as checks_home
from cli.doctor.context import DoctorContext
from cli.errors import UserError
from cli.home.identity import DaemonLock, this_process
from cli.home.paths import Home
from tests.harness.locks import is_locked


def test_file_in_the_place_of_a_directory_is_reported(home: Home) -> None:
    """It is somebody's: nothing is moved."""
    home.rejected.rmdir()
    home.rejected.touch()
    found = checks_home.layout(DoctorContext(home))
    assert (found.level, found.message) == ("fail", f"{home.rejected} is not a directory")


def test_a_journal_is_never_made_up(home: Home) -> None:
    """An empty journal would turn every other file into a leftover."""
    home.journal.rename(home.root / "elsewhere")
    assert checks_home.layout(DoctorContext(home)).level == "fail"
    assert checks_home.make_missing_directories(DoctorContext(home)) == []
    assert not home.journal.exists()


def test_directory_that_any_user_may_write_to_is_reported(home: Home) -> None:
    """A user who can write to the inbox decides what is trained."""
    home.inbox.chmod(0o777)
    found = checks_home.permissions(DoctorContext(home))
    assert (found.level, found.advice) == ("warn", f"chmod o-w {home.inbox}")
    home.inbox.chmod(0o1777)  # as /tmp: each their own files
    assert checks_home.permissions(DoctorContext(home)).level == "pass"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_unusable_path_is_reported_with_its_owner(home: Home) -> None:
    """And every other check still runs."""
    home.checkpoints.chmod(0)
    found = checks_home.permissions(DoctorContext(home))
    home.checkpoints.chmod(0o755)
    assert found.level == "fail"
    assert str(home.checkpoints) in found.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_is_warned_of_a_home_of_somebody_else(home: Home) -> None:
    """What root makes in there, its owner could not change."""
    os.chown(home.checkpoints, 65534, -1)
    found = checks_home.permissions(DoctorContext(home))
    assert found.level == "warn"
    assert "and you are root" in found.message


def test_a_wrong_key_is_named(home: Home) -> None:
    """By the config's own words."""
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace("batch_size = 4", "batch_size = 0"), encoding="utf-8")
    with pytest.raises(UserError, match=r"training\.batch_size"):
        checks_home.config(DoctorContext(home))


def test_config_that_does_not_fit_the_trained_weights_fails(trained: Home) -> None:
    """Before the next file is held for it."""
    text = trained.config.read_text(encoding="utf-8")
    trained.config.write_text(text.replace("r = 16", "r = 8"), encoding="utf-8")
    found = checks_home.config(DoctorContext(trained))
    assert found.level == "fail"
    assert "method.r is 8, and the weights were trained with 16" in found.message


def test_leftovers_are_left_to_a_daemon_that_runs(home: Home) -> None:
    """They may be its own; and removing needs its lock."""
    left = home.status.parent / ".status.json.12345678.tmp"
    left.touch()
    lock = DaemonLock(home)
    lock.take(this_process())
    assert checks_home.leftovers(DoctorContext(home)).level == "pass"
    with pytest.raises(UserError, match="a daemon already runs"):
        checks_home.remove_leftovers(DoctorContext(home))
    assert left.exists()
    lock.release()
    assert checks_home.leftovers(DoctorContext(home)).level == "warn"
    assert checks_home.remove_leftovers(DoctorContext(home)) == ["deleted status/.status.json.12345678.tmp"]


def test_leftovers_are_removed_while_no_command_writes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary file of a command that runs is no leftover."""
    left, locks = home.status.parent / ".status.json.12345678.tmp", list[bool]()
    left.touch()

    def swept(found: Home) -> None:
        locks.extend(is_locked(path) for path in (home.journal / "lock", home.daemon_lock))
        sweep_temporaries(found)

    monkeypatch.setattr("cli.doctor.home.sweep_temporaries", swept)
    checks_home.remove_leftovers(DoctorContext(home))
    assert locks == [True, True]
    assert not left.exists()


def test_only_what_keepstep_names_so_is_removed(home: Home) -> None:
    """A file of another user next to it stays."""
    mine: list[Path] = [home.root / ".mine.tmp", home.run / "my.sock", home.status.parent / "notes"]
    for path in mine:
        path.touch()
    assert checks_home.leftovers(DoctorContext(home)).level == "pass"
    assert checks_home.remove_leftovers(DoctorContext(home)) == []
    assert all(path.exists() for path in mine)


def set_hooks(home: Home, **values: str) -> None:
    lines = home.config.read_text(encoding="utf-8").splitlines()
    for key, value in values.items():
        lines = [f"{key} = {value}" if line.startswith(f"{key} =") else line for line in lines]
    home.config.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_hook_without_its_program_is_reported(home: Home) -> None:
    """By name, or by a path in the home; what is there passes."""
    assert checks_home.hooks(DoctorContext(home)).message == "no hook is set"
    set_hooks(home, on_held='"no-such-program --x"')
    found = checks_home.hooks(DoctorContext(home))
    assert (found.level, found.message) == ("warn", "on_held cannot run: there is no program no-such-program")
    set_hooks(home, on_held='"./tell.sh"')
    assert checks_home.hooks(DoctorContext(home)).level == "warn"
    (home.root / "tell.sh").write_text("#!/bin/sh\n", encoding="utf-8")
    (home.root / "tell.sh").chmod(0o755)
    assert checks_home.hooks(DoctorContext(home)).level == "pass"


def test_notifications_want_apprise_and_a_config_that_nobody_else_reads(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their addresses have passwords in them."""
    set_hooks(home, notify='["json://user:password@nowhere"]')
    home.config.chmod(0o644)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert checks_home.hooks(DoctorContext(home)).advice == "`pip install 'keepstep[notify]'`"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert checks_home.hooks(DoctorContext(home)).advice == f"chmod 600 {home.config}"
    home.config.chmod(0o600)
    assert checks_home.hooks(DoctorContext(home)).level == "pass"
