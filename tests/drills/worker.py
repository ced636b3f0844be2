"""A worker that gets into trouble: `python -m tests.drills.worker --home HOME --socket PATH`.

It is the real one, or the fake one, by the environment; at one of the points of `journal/failpoints.py` it does what
KEEPSTEP_DRILL says (`step:12:hang`: at the twelfth step), once in all if KEEPSTEP_DRILL_ONCE names a file, which says
when that was. With KEEPSTEP_DRILL_PACE each step takes so many seconds. Where KEEPSTEP_DRILL_ORDERS names a file
instead, what stands in it (`step:hang`) is done by the worker that comes to that point next; it takes the file away.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import importlib
import os
import signal
import socket
import time
from collections import Counter
from pathlib import Path

from gpu.ipc import connection
from journal import failpoints
from tests.crash.real_disks import Disk

_calls: Counter[str] = Counter()
_connections: list[socket.socket] = []


def trouble(point: str) -> None:
    """Called wherever a test may have the process killed."""
    if point == "step":
        time.sleep(float(os.environ.get("KEEPSTEP_DRILL_PACE", "0")))
    orders = os.environ.get("KEEPSTEP_DRILL_ORDERS")
    what = ordered(Path(orders), point) if orders else planned(point)
    if what is not None:
        get_into(what)


def planned(point: str) -> str | None:
    """What the environment has for this point, if its time has come."""
    name, count, what = os.environ["KEEPSTEP_DRILL"].split(":")
    _calls[point] += 1
    if point != name or _calls[point] != int(count):
        return None
    once = Path(os.environ["KEEPSTEP_DRILL_ONCE"])
    if once.exists():
        return None
    once.write_text(f"{time.time()} {os.getpid()}", encoding="utf-8")
    return what


def ordered(orders: Path, point: str) -> str | None:
    """What the file has for this point. It is taken away before that is done."""
    try:
        name, _, what = orders.read_text(encoding="utf-8").partition(":")
        if name != point:
            return None
        orders.rename(orders.with_suffix(".taken"))
    except FileNotFoundError:  # there is none, or it was withdrawn
        return None
    return what


def get_into(what: str) -> None:
    """The trouble itself."""
    name, _, rest = what.partition(":")
    match name:
        case "hang":
            time.sleep(3600)
        case "native":
            ctypes.PyDLL(None).sleep(3600)  # in C, and holding the lock of the interpreter: no thread of it runs
        case "segv":
            ctypes.string_at(0)
        case "exit":
            os._exit(7)
        case "garbage":
            _connections[0].sendall(b"\x00\xff not a message\n")
            time.sleep(3600)
        case "full":
            Disk(Path(os.environ["KEEPSTEP_DRILL_DISK"]), -1, "").fill()
        case "driver":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        case "no_room":  # as "full", without a separate disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case "fault":  # of `gpu/runtime/faults.py`, at a step that is still to come
            os.environ["KEEPSTEP_FAULTS"] = rest
        case _:
            os.kill(os.getpid(), signal.Signals[name])


def main() -> None:
    """Be the worker that the environment names."""
    connect = connection.connect

    def remembered(path: Path) -> socket.socket:
        _connections.append(connect(path))
        return _connections[-1]

    connection.connect = remembered
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # as the real one does by itself
    failpoints._die_if_requested = trouble
    importlib.import_module(os.environ["KEEPSTEP_DRILL_WORKER"]).main()


if __name__ == "__main__":
    main()
