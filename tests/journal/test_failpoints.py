"""Dying at a named place."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from journal.failpoints import CONSOLIDATION, DAEMON, EVALUATION, POINTS, SELF_CORRECTION, WORKER, failpoint

ROOT = Path(__file__).parents[2]


CALLS = {"failpoint", "failpoints.failpoint"}

CALLBACKS = {"gpu/artifacts/commit.py": {"passed"}}
"""Names under which `publish` calls failpoints; a caller can replace the function."""


def called(*folders: str) -> set[str]:
    """The points that the modules of these folders reach."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        calls = CALLS | CALLBACKS.get(path.relative_to(ROOT).as_posix(), set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in calls:
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"{path.name}: a point has a name, not a variable"
                found.add(str(name.value))
    return found


@pytest.mark.parametrize(("setting", "lines"), [("", 3), ("step", 0), ("step:3", 2), ("loaded", 3)])
def test_the_process_is_killed_at_the_nth_time(setting: str, lines: int) -> None:
    program = "from journal.failpoints import failpoint\nfor i in range(3): failpoint('step'); print(i, flush=True)"
    ended = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "KEEPSTEP_FAILPOINT": setting}, capture_output=True
    )
    assert ended.returncode == (0 if lines == 3 else -9)
    assert len(ended.stdout.splitlines()) == lines


def test_every_point_is_in_the_tables_and_every_line_of_them_is_a_point() -> None:
    assert called("gpu") == {*WORKER, *CONSOLIDATION, *EVALUATION, "corrected"}
    assert called("cli", "journal", "projections") == {*DAEMON, *SELF_CORRECTION} - {"corrected"}


def test_a_point_that_nobody_can_ask_for_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="nowhere is in no table"):
        failpoint("nowhere")


def test_a_point_is_in_one_process() -> None:
    """So that a test knows who will die."""
    assert len(POINTS) == len(WORKER) + len(CONSOLIDATION) + len(EVALUATION) + len(SELF_CORRECTION) + len(DAEMON)
