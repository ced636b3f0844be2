"""Making a home, by several processes at once."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from cli.config import load_config
from cli.errors import UserError
from cli.home import Home
from cli.init import create_home, lay_out


def test_a_second_init_waits_for_nobody_and_overwrites_nothing(tmp_path: Path) -> None:
    """One makes the home; the other is told so."""
    (tmp_path / "home").mkdir()
    fd = os.open(tmp_path / "home", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another `keepstep init`"):
        create_home(tmp_path / "home", model="nowhere")
    os.close(fd)
    create_home(tmp_path / "home", model="first")
    with pytest.raises(UserError, match="a home already"):  # it had looked before the first one was done
        lay_out(Home(tmp_path / "home"), b"[model]\npath = 'second'\n")
    assert load_config(tmp_path / "home" / "keepstep.toml").job.model.path == "first"
