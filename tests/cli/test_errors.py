"""What people are told, and how a process ends."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cli.errors import MIN_OPEN_FILES, REFUSED, error_text, exit_code_of, refuse_too_few_files
from cli.home.paths import Home

ROOT = Path(__file__).parents[2]


def limited(files: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """keepstep, in a process that may open so many files at once."""
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_daemon_with_too_few_files_says_how_many_it_needs(home: Home) -> None:
    """Before anything is begun."""
    said = limited(12, "run", "--until-idle", "--home", str(home.root))
    assert said.returncode == REFUSED
    assert "may open 12 files at once" in said.stderr
    assert "ulimit -n" in said.stderr


@pytest.mark.parametrize("files", [5, 6, 7])
def test_a_command_that_runs_out_of_files_says_so(home: Home, tmp_path: Path, files: int) -> None:
    """Wherever it happens: a sentence, no traceback, and nothing is left half done."""
    (tmp_path / "a.jsonl").write_text("row\n", encoding="utf-8")
    said = limited(files, "add", str(tmp_path / "a.jsonl"), "--home", str(home.root))
    assert "Traceback" not in said.stderr
    assert said.returncode != 70
    arriving = home.data / ".arriving"
    assert not arriving.exists() or not list(arriving.iterdir())


def test_a_low_limit_is_raised_where_the_system_lets_us() -> None:
    """The soft limit is the process's own."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, before[1]))
    try:
        refuse_too_few_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == MIN_OPEN_FILES
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_error_without_a_file_has_a_message() -> None:
    """A pipe or a socket has no name."""
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert exit_code_of(error) == REFUSED
    assert "no more files can be opened" in error_text(error)
