"""A home whose own path has a byte that is not UTF-8: every process that gets the path can use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.home.paths import Home
from tests.harness.tiny_model import make_rows

COMMAND = [sys.executable, "-P", "-m", "cli"]


@pytest.fixture
def odd(trained: Home, tmp_path: Path) -> Path:
    """A home in which two steps were trained, below a directory that is called `caf\\xe9`."""
    root = tmp_path / os.fsdecode(b"caf\xe9") / "home"
    root.parent.mkdir()
    shutil.move(trained.root, root)
    return root


def keepstep(*arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments, "--home", home], capture_output=True, text=True, errors="backslashreplace", check=False
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.long
def test_data_can_be_checked_and_a_checkpoint_exported(odd: Path) -> None:
    """The order to the process that does it carries the path."""
    rows = odd.parent / os.fsdecode(b"\xff.jsonl")
    rows.write_bytes(make_rows(8))
    checked = keepstep("data", "check", rows, home=odd)
    assert checked.returncode == 0, checked.stderr
    assert "\\xff.jsonl" in checked.stdout
    exported = keepstep("checkpoints", "export", "--to", odd.parent / "model", home=odd)
    assert exported.returncode == 0, exported.stderr
    assert (odd.parent / "model" / "model.safetensors").exists()


@pytest.mark.long
def test_training_and_consolidation_work(odd: Path) -> None:
    """The worker loads base, checkpoint and version from there."""
    (odd / "inbox" / "b.jsonl").write_bytes(make_rows(4, 900))
    assert keepstep("consolidate", "-d", "x", home=odd).returncode == 0
    done = keepstep("run", "--until-idle", home=odd)
    assert done.returncode == 0, done.stdout
    assert "published versions/v001" in done.stdout
    assert (odd / "versions" / "v001").is_dir()


def test_what_a_utf8_file_cannot_hold_is_refused(odd: Path, tmp_path: Path) -> None:
    """keepstep.toml: by name, and nothing is written. All else shows the path with the byte written out."""
    (odd.parent / "model").mkdir()
    made = subprocess.run(
        [*COMMAND, "init", tmp_path / "new", "--model", odd.parent / "model"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 1
    assert "cannot hold the path of the model" in made.stderr
    assert not (tmp_path / "new" / "keepstep.toml").exists()
    changed = keepstep("config", "set", "data.validation", os.fsdecode(b"caf\xe9.jsonl"), home=odd)
    assert (changed.returncode, "was not changed" in changed.stderr) == (1, True)
    verified = keepstep("journal", "verify", "--json", home=odd)
    assert verified.returncode == 0, verified.stderr
    assert "caf\\\\xe9" in verified.stdout
