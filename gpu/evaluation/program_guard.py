"""Run one program with limits, and kill all its processes at its end. A script: it uses only the standard library.

The process that starts it writes an order to the standard input (one line of JSON) and reads a result (the same) from
the standard output. The program gets a session, a temporary directory and few environment variables. The guard adopts
orphans of the program (on Linux), so that it also finds children that left the process group. It kills all of them when
the program ends, when its time is over, and when the process that gave the order ends: then the standard input closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
"""From <sys/prctl.h>."""

LIMITS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_DATA: 4 << 30,  # not RLIMIT_AS: node and java reserve far more addresses than they use
    resource.RLIMIT_FSIZE: 64 << 20,
    resource.RLIMIT_NOFILE: 256,
}
"""Limits of each process of the program, next to that of its CPU time."""

ERROR_BYTES = 1_000
"""Bytes that are kept of the end of the standard error."""

POLL_S = 0.01
KILL_S = 5.0
"""The longest time that killed processes may need to end, seconds."""


def main() -> None:
    """Read the order, run the program, write the result."""
    order = json.loads(sys.stdin.buffer.readline())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    directory = tempfile.mkdtemp(prefix="keepstep-")
    try:
        result = run(order, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(result), flush=True)


def run(order: dict[str, Any], directory: str) -> dict[str, Any]:
    """Run the program in `directory`. Returns its exit code (below 0: a signal), or why there is none, and the end of
    its standard error."""
    with tempfile.TemporaryFile() as given:
        given.write(order["input"].encode())
        given.seek(0)
        try:
            process = subprocess.Popen(
                order["command"],
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=directory,
                env=order["environment"],
                start_new_session=True,
                preexec_fn=lambda: limit(order["timeout_s"]),  # this process has one thread
            )
        except OSError as error:
            return {"code": None, "why": "start", "error": os.strerror(error.errno or 0)}
    assert process.stderr is not None  # a pipe
    why, last = watch(process, process.stderr.fileno(), time.monotonic() + order["timeout_s"])
    code = process.poll()
    kill_all(process)
    return {"code": code if why == "ended" else None, "why": why, "error": last.decode(errors="backslashreplace")}


def limit(timeout_s: float) -> None:
    """Limit the resources of this process and of its children."""
    for kind, most in {**LIMITS, resource.RLIMIT_CPU: int(timeout_s) + 2}.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def watch(process: subprocess.Popen[bytes], pipe: int, deadline: float) -> tuple[str, bytes]:
    """Wait until the program ends ("ended"), its time is over ("timeout"), or the parent is gone ("parent"). Returns
    which, and the last bytes of its standard error."""
    kept, sources, parent = b"", [pipe, sys.stdin.fileno()], sys.stdin.fileno()
    while True:
        ended = process.poll() is not None
        ready = select.select(sources, [], [], 0 if ended else POLL_S)[0]
        if parent in ready and not os.read(parent, 1):
            return "parent", kept
        if pipe in ready:
            data = os.read(pipe, 65_536)
            kept = (kept + data)[-ERROR_BYTES:]
            if not data:
                sources.remove(pipe)
        elif ended:
            return "ended", kept
        if time.monotonic() >= deadline:
            return ("ended" if process.poll() is not None else "timeout"), kept


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill the program, its process group, and every process that this one adopts in the meantime."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + KILL_S
    while time.monotonic() < deadline:
        for child in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:  # there are no more
            return
        time.sleep(POLL_S / 10)


def children() -> Iterator[int]:
    """Yield the ids of the children of this process, on Linux."""
    with contextlib.suppress(OSError):
        yield from map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


if __name__ == "__main__":
    main()
