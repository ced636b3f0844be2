"""`keepstep stop --now`: end the daemon at once, as a second Ctrl-C does.

Committed steps stay. The next daemon runs the uncommitted ones again, to the same bits.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import psutil

from cli.errors import UserError
from cli.home.identity import daemon_is_alive, lock_holder
from cli.home.paths import Home, find_home
from cli.output.terminal import say

SIGNAL_EVERY_S = 0.2
"""Two signals in quick succession count as one."""

TERMINATE_WAIT_S = 5.0
"""A daemon whose loop did not react for this long hangs: it is killed."""

KILL_WAIT_S = 10.0


def stop_now(home_option: Path | None) -> None:
    """`keepstep stop --now`. Raises UserError if no daemon runs, or if its process is not known."""
    home = find_home(home_option)
    if not daemon_is_alive(home):
        raise UserError("no daemon runs in this home, so there is nothing to stop")
    process = daemon_process(home)
    if process is None:
        raise UserError(
            f"a daemon holds {home.daemon_lock}, but its process cannot be found; nothing was stopped",
            "ask it to stop: `keepstep stop`",
        )
    killed = end(process)
    say(f"stopped; {'the daemon did not react and was killed; ' if killed else ''}committed steps are kept")
    if killed:
        say("if systemd or --supervise restarts it, stop it with: keepstep stop")


def daemon_process(home: Home) -> psutil.Process | None:
    """The process that holds the daemon lock: the lock file names its pid, and it has that file open."""
    holder = lock_holder(home)
    if holder is None:
        return None
    try:
        process = psutil.Process(holder.pid)
        opened = [Path(file.path) for file in process.open_files()]
    except psutil.Error:
        return None
    return process if home.daemon_lock.resolve() in opened else None


def end(process: psutil.Process) -> bool:
    """Terminate the process, and kill it if it does not react. Returns True if it was killed."""
    deadline = time.monotonic() + TERMINATE_WAIT_S
    with suppress(psutil.NoSuchProcess):
        while time.monotonic() < deadline:
            process.terminate()
            if _is_gone(process, SIGNAL_EVERY_S):
                return False
        process.kill()
        return _is_gone(process, KILL_WAIT_S)
    return False


def _is_gone(process: psutil.Process, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
