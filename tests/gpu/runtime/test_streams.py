"""Standard streams that are closed, narrow, full, or read by nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PROGRAM = "from gpu.runtime.streams import prepare_streams, reader_is_gone; import os, sys; prepare_streams(); "


def run(code: str, before: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = f'{before} exec "$0" -P -c "$1"'
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["bash", "-c", command, sys.executable, PROGRAM + code], capture_output=True, env=env, check=False
    )


def test_a_character_that_does_not_fit_is_written_out() -> None:
    """In either stream, a lone surrogate too."""
    done = run("print('日 …', '\\udcff'); print('é', file=sys.stderr)", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\u65e5 \\u2026 \\udcff\n", b"\\xe9\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_replaced_before_a_file_gets_its_number(closed: str, tmp_path: Path) -> None:
    """Else the first file that is opened would be what `print` writes to."""
    code = f"f = open({str(tmp_path / 'journal')!r}, 'w'); print('x', flush=True); sys.stderr.write('y')\n"
    code += "assert f.fileno() > 2 and sys.stdin.read(0) == ''"
    assert run(code, f"exec {closed};").returncode == 0
    assert (tmp_path / "journal").read_bytes() == b""


def test_a_process_whose_reader_left_does_its_work_to_the_end(tmp_path: Path) -> None:
    """Its exit code is its own, however fast the reader is gone."""
    reading, writing = os.pipe()
    os.close(reading)
    code = f"print('x' * 100_000, flush=True); print('y'); assert reader_is_gone(); os.mkdir({str(tmp_path / 'd')!r})"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-c", PROGRAM + code]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=env, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "d").is_dir()


def test_a_reader_that_is_there_is_not_gone() -> None:
    """A pipe that nobody reads from yet is read from later."""
    assert run("assert not reader_is_gone(); print('x')").stdout == b"x\n"
