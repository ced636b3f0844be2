"""Workers that their daemon left behind: found by what they were started with, ended by the next daemon.

A worker dies with its daemon: the kernel sees to that, and the socket that closes. One that is left all the same (it is
stuck in a driver, or on a system without that) would hold the GPU, and might still write.

What is ended was started as a worker of this very home, with a socket that only its daemons name, before the daemon
that asks; which holds the daemon's lock, so that no other one can be its owner. Nothing is known by its name alone, and
nothing else is touched.
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
"""As `cli.daemon.worker_process` names them, in `run/`."""

END_WAIT_S = 20.0
"""For the kernel to take a process away that was killed: one that waits for a device goes when that answers."""


class Leftover(NamedTuple):
    """A process that was ended."""

    pid: int
    started_at: float
    command: str


def workers_of(root: Path, module: str = WORKER_MODULE) -> list[psutil.Process]:
    """The processes that were started as a worker of this home."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:  # gone meanwhile, or somebody else's: not ours, then
            continue
        if is_worker_of(root, words, module):
            found.append(process)
    return found


def is_worker_of(root: Path, words: list[str], module: str = WORKER_MODULE) -> bool:
    """Whether a process with these words for its command line is a worker that a daemon of this home started."""
    home, socket = _after("--home", words), _after("--socket", words)
    if module not in words or home is None or socket is None:
        return False
    real, path = os.path.realpath(root), Path(socket)
    return (
        os.path.realpath(home) == real
        and os.path.realpath(path.parent) == os.path.realpath(root / "run")
        and SOCKET.fullmatch(path.name) is not None
    )


def end_leftovers(home: Home, module: str = WORKER_MODULE) -> list[Leftover]:
    """End the workers that earlier daemons of this home left, and their children. The caller holds the daemon's lock,
    and has started no worker yet.

    Raises UserError if one cannot be ended: what it still writes would meet what the next one writes.
    """
    import psutil

    ended: list[Leftover] = []
    dying: list[psutil.Process] = []
    for process in workers_of(home.root, module):
        try:
            ended.append(Leftover(process.pid, process.create_time(), " ".join(process.cmdline())))
            process_tree = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for each in process_tree:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
            except psutil.AccessDenied as error:
                raise _stays(each.pid, "it belongs to another user") from error
            dying.append(each)
    _, alive = psutil.wait_procs(dying, timeout=END_WAIT_S)
    left = [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    if left:
        raise _stays(left[0].pid, "it was killed, and the system does not take it away: it waits for a device")
    return ended


def _stays(pid: int, why: str) -> UserError:
    return UserError(
        f"a worker of an earlier daemon (pid {pid}) is still there, and cannot be ended: {why}",
        f"`ps -p {pid} -o stat,wchan,args` shows it; when it is gone (or the machine restarted), `keepstep run`",
        REFUSED,
    )


def _after(option: str, words: list[str]) -> str | None:
    rest = words[words.index(option) + 1 :] if option in words else []
    return rest[0] if rest else None
