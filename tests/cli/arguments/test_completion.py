"""Completion of names in the shell."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from cli.home.event_store import EventStore
from cli.home.paths import Home
from core import commands

ROOT = Path(__file__).parents[4]


def completed(words: str, home: Path) -> list[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KEEPSTEP_HOME": str(home),
        "_KEEPSTEP_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "cli"], capture_output=True, text=True, env=environment, check=False
    )
    assert ran.stderr == ""
    return ran.stdout.split()


def test_the_shell_completes_commands_and_the_names_of_jobs(home: Home, tmp_path: Path) -> None:
    """A directory that is no home has none, and says nothing."""
    with closing(EventStore.open(home)) as store:
        store.execute(commands.AddFile(job="a" * 64, name="third.jsonl", size_bytes=1, priority="normal", known=False))
    assert completed("keepstep ver", home.root) == ["versions"]
    assert completed("keepstep queue hold th", home.root) == ["third.jsonl"]
    assert completed("keepstep queue hold th", tmp_path) == []
