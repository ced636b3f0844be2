"""`keepstep stop --now`: the daemon ends at once, as after a second Ctrl-C.

What was committed is committed; what the worker was at is run again by the next daemon, to the same bits.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import psutil
import typer

from cli.errors import UserError
from cli.home.identity import daemon_is_alive, lock_holder
from cli.home.paths import Home, find_home

SIGNAL_EVERY_S = 0.2
"""Two signals at once would be one."""

PATIENCE_S = 5.0
"""A loop that has not come by for so long will not."""

KILL_WAIT_S = 10.0


def stop_now(home_option: Path | None) -> None:
    """`keepstep stop --now`. Raises UserError if no daemon runs, or if it cannot be told which process it is."""
    home = find_home(home_option)
    if not daemon_is_alive(home):
        raise UserError("no daemon runs in this home")
    process = daemon_process(home)
    if process is None:
        raise UserError(
            f"{home.daemon_lock} is held, and does not say by whom; nothing was ended", "`keepstep stop` asks it to end"
        )
    killed = end(process)
    typer.echo(f"ended; {'it did not answer, and was killed; ' if killed else ''}what was committed is kept")
    if killed:
        typer.echo(
            "if systemd or --supervise looks after it, it comes back: then `keepstep stop`, which it hears again"
        )


def daemon_process(home: Home) -> psutil.Process | None:
    """The process that holds the daemon lock: of the number that stands there, and with that very file open."""
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
    """End the process, with signals or (then it comes to True) by force; it is gone when this returns."""
    until = time.monotonic() + PATIENCE_S
    with suppress(psutil.NoSuchProcess):
        while time.monotonic() < until:
            process.terminate()
            if _is_gone(process, SIGNAL_EVERY_S):
                return False
        process.kill()
        return _is_gone(process, KILL_WAIT_S)
    return False


def _is_gone(process: psutil.Process, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
