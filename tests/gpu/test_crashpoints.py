"""Dying at a named place."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("setting", "lines"), [("", 3), ("there", 0), ("there:3", 2), ("elsewhere", 3)])
def test_the_process_is_killed_at_the_nth_time(setting: str, lines: int) -> None:
    program = "from gpu.crashpoints import reached\nfor i in range(3): reached('there'); print(i, flush=True)"
    ended = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "KEEPSTEP_CRASH_AT": setting}, capture_output=True
    )
    assert ended.returncode == (0 if lines == 3 else -9)
    assert len(ended.stdout.splitlines()) == lines
