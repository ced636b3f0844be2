"""`keepstep run` with the worker of the drills, and with a clock that is set back a day when a file appears:

python -P -m tests.drills.daemon HOME
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from cli.clock import Clock
from cli.errors import told
from cli.home import Home
from cli.keepalive import run_daemon

BACK_S = 86_400.0


class WildClock(Clock):
    """The machine's own, until somebody sets it back."""

    def now(self) -> float:
        mark = os.environ.get("KEEPSTEP_DRILL_CLOCK")
        return time.time() - (BACK_S if mark and Path(mark).exists() else 0.0)


def main() -> None:
    """Run until idle."""
    home = Home(Path(sys.argv[1]).absolute(), clock=WildClock())
    with told():
        code = run_daemon(
            home,
            until_idle=True,
            write=lambda line: print(line, flush=True),
            worker_module="tests.drills.worker",
        )
        sys.exit(code)


if __name__ == "__main__":
    main()
