"""`keepstep run` with the worker of the drills, on a machine that a drill can change while it runs:

python -P -m tests.drills.daemon HOME [--stay]

The clock is set back a day while a file is there, and others use nearly all of the memory while another one is.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from cli.errors import report_errors
from cli.home.paths import Home
from cli.machine import measure
from cli.machine.clock import Clock
from cli.supervision.watchdog import run_daemon
from gpu.runtime import memory_limits
from gpu.runtime.memory_limits import MachineMemory

BACK_S = 86_400.0
LEFT_SHARE = 0.02
"""What others leave of the memory when they take it."""


class WildClock(Clock):
    """The machine's own, until somebody sets it back."""

    def now(self) -> float:
        return time.time() - (BACK_S if marked("CLOCK") else 0.0)


def marked(what: str) -> bool:
    """Whether the file is there that the environment names."""
    mark = os.environ.get(f"KEEPSTEP_DRILL_{what}")
    return mark is not None and Path(mark).exists()


def take_memory() -> None:
    """From now on others have it, whenever they are wanted to."""
    measured = memory_limits.machine_memory

    def said() -> MachineMemory:
        found = measured()
        return found._replace(available=int(found.total * LEFT_SHARE)) if marked("MEMORY") else found

    for module in (measure, memory_limits):
        vars(module)["machine_memory"] = said


def main() -> None:
    """Run until idle, or with --stay until told to stop."""
    take_memory()
    home = Home(Path(sys.argv[1]).absolute(), clock=WildClock())
    with report_errors():
        code = run_daemon(
            home,
            until_idle="--stay" not in sys.argv,
            write=lambda line: print(line, flush=True),
            worker_module="tests.drills.worker",
        )
        sys.exit(code)


if __name__ == "__main__":
    main()
