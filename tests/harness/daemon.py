"""`keepstep run` with another worker than the real one, which no option of the command line asks for:

python -P -m tests.harness.daemon HOME MODULE [--until-idle] [--retry-soon]
"""

from __future__ import annotations

import sys
from pathlib import Path

from cli.errors import report_errors
from cli.home.paths import Home
from cli.supervision.run import run_here
from core.topics import attempts
from gpu.runtime.streams import prepare_streams

ROOT = Path(__file__).parents[2]

RETRY_SOON_S = 0.05
"""The first wait before a retry with --retry-soon, in place of seconds."""


def run_until_idle(home: Home, worker_module: str = "tests.harness.worker", *, until_idle: bool = True) -> list[str]:
    """Run a daemon in this process, with the fake worker. Returns what it said."""
    import pytest

    from cli.daemon.loop import Daemon
    from cli.daemon.ports import RealPorts

    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        Daemon(home, until_idle=until_idle, write=said.append, ports=RealPorts(home, worker_module)).run()
    return said


def main() -> None:
    """Run until told to stop, or until idle."""
    if "--retry-soon" in sys.argv:
        attempts.FIRST_WAIT_S = RETRY_SOON_S
    prepare_streams()
    home = Home(Path(sys.argv[1]).absolute())
    with report_errors():
        sys.exit(
            run_here(home, until_idle="--until-idle" in sys.argv, supervised=False, worker_module=sys.argv[2]),
        )


if __name__ == "__main__":
    main()
