"""Orphans: workers that outlived their daemon. The next daemon finds them by their command line and ends them.

A worker normally ends with its daemon: the kernel kills it, and its socket closes. A worker that is stuck in a driver,
or runs on a system without that kernel feature, may remain. It would hold the GPU and might still write.

Only a worker of this home is ended: its command line names the home and a socket that only a daemon of the home
creates. The caller holds the daemon lock, so no other daemon can own it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cli.errors import REFUSED, UserError
from cli.home.paths import Home

if TYPE_CHECKING:
    import psutil

WORKER_MODULE = "gpu.worker"

SOCKET = re.compile(r"worker-[0-9a-f]{8}\.sock")
"""The name that `cli.daemon.worker.process` gives to sockets in `run/`."""

END_WAIT_S = 20.0
"""Time for the kernel to remove a killed process: one that waits for a device ends when the device answers."""


class Orphan(NamedTuple):
    """A worker that was ended."""

    pid: int
    started_at: float
    """Unix time, seconds."""
    command: str


def workers_of(root: Path, module: str = WORKER_MODULE) -> list[psutil.Process]:
    """The running processes that are workers of this home."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:  # it has ended, or belongs to another user
            continue
        if is_worker_of(root, words, module):
            found.append(process)
    return found


def is_worker_of(root: Path, words: list[str], module: str = WORKER_MODULE) -> bool:
    """True if these words of a command line start a worker of this home."""
    home, socket = _value_of("--home", words), _value_of("--socket", words)
    if module not in words or home is None or socket is None:
        return False
    real, path = os.path.realpath(root), Path(socket)
    return (
        os.path.realpath(home) == real
        and os.path.realpath(path.parent) == os.path.realpath(root / "run")
        and SOCKET.fullmatch(path.name) is not None
    )


def end_orphans(home: Home, module: str = WORKER_MODULE) -> list[Orphan]:
    """End the workers that earlier daemons of this home left, with their children, and return them.

    The caller holds the daemon lock and has started no worker yet. Raises UserError if one cannot be ended, because it
    could still write to files of the next worker.
    """
    import psutil

    ended: list[Orphan] = []
    killed: list[psutil.Process] = []
    for process in workers_of(home.root, module):
        try:
            ended.append(Orphan(process.pid, process.create_time(), " ".join(process.cmdline())))
            process_tree = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for each in process_tree:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
            except psutil.AccessDenied as error:
                raise _cannot_end(each.pid, "it belongs to another user") from error
            killed.append(each)
    _, alive = psutil.wait_procs(killed, timeout=END_WAIT_S)
    left = [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    if left:
        raise _cannot_end(left[0].pid, "it was killed, but waits for a device in the kernel")
    return ended


def _cannot_end(pid: int, reason: str) -> UserError:
    return UserError(
        f"a worker of an earlier daemon (pid {pid}) still runs and cannot be ended: {reason}",
        f"`ps -p {pid} -o stat,wchan,args` shows it; when it is gone (or after a reboot), `keepstep run`",
        REFUSED,
    )


def _value_of(option: str, words: list[str]) -> str | None:
    rest = words[words.index(option) + 1 :] if option in words else []
    return rest[0] if rest else None
