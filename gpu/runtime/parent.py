"""End this process when its parent ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From <sys/prctl.h>."""


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends.

    Only Linux can; elsewhere the process notices that its pipe or socket closes. Raises SystemExit if the parent has
    already ended.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent process has ended")
