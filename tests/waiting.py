"""Waiting for what is to come: by looking, with a deadline, never by guessing how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

LOOK_EVERY_S = 0.02
"""Seconds. Short next to any wait of the tests, and cheap for the machine that does the work."""

PATIENCE_S = 30.0
"""Far more than anything takes that is quick, on a machine that has much else to do."""


def eventually(
    condition: Callable[[], object], within_s: float = PATIENCE_S, *, report: Callable[[], object] = str
) -> float:
    """Wait until it holds; how long that took, in seconds. Fails with the `report` if it takes longer than it may."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, f"it did not come to that within {within_s:g} s\n{report()}"
        time.sleep(LOOK_EVERY_S)
    return time.monotonic() - began


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended: one that nobody has asked for its exit code has."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
