"""A worker process ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gpu.runtime import parent as parent_module
from tests.waiting import eventually, is_alive

CHILD = """
import time
from gpu.runtime.parent import die_with_parent
die_with_parent()
print("up", flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the connection that closes must do")
def test_it_dies_with_a_parent_that_is_killed() -> None:
    """At once, whatever it is at."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not is_alive(child), 5.0)


def test_a_worker_whose_daemon_died_while_it_started_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it could ask the kernel to be told: its parent is another by then."""
    parents = iter([7, 1])
    monkeypatch.setattr(parent_module.os, "getppid", lambda: next(parents))  # type: ignore[attr-defined]
    monkeypatch.setattr(parent_module.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(prctl=lambda *_: 0))  # type: ignore[attr-defined]
    with pytest.raises(SystemExit, match="has ended"):
        parent_module.die_with_parent()
