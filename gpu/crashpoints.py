"""Named places where a test may have the process killed.

`KEEPSTEP_CRASH_AT=renamed` kills the process with SIGKILL, as a power cut would, when `reached("renamed")` is called;
`KEEPSTEP_CRASH_AT=renamed:3` at the third such call. With `KEEPSTEP_CRASH_ONCE=FILE` it happens to one process only:
whoever dies makes the file, and where it is, nobody dies. Without the first variable nothing happens.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

_calls: Counter[str] = Counter()


def reached(point: str) -> None:
    """Die here if the environment says so."""
    wanted = os.environ.get("KEEPSTEP_CRASH_AT")
    if not wanted:
        return
    name, _, count = wanted.partition(":")
    if name != point:
        return
    _calls[point] += 1
    if _calls[point] == int(count or 1):
        once = os.environ.get("KEEPSTEP_CRASH_ONCE")
        if once and os.path.exists(once):  # noqa: PTH110  # a path from the environment, asked about once
            return
        if once:
            os.close(os.open(once, os.O_CREAT | os.O_WRONLY))
        os.kill(os.getpid(), signal.SIGKILL)
