"""`keepstep run` with another worker than the real one, which no option of the command line asks for:

python -P -m tests.harness.daemon HOME MODULE [--until-idle]
"""

from __future__ import annotations

import sys
from pathlib import Path

from cli.errors import report_errors
from cli.home.paths import Home
from cli.supervision.run import run_here
from gpu.runtime.streams import prepare_streams


def main() -> None:
    """Run until told to stop, or until idle."""
    prepare_streams()
    home = Home(Path(sys.argv[1]).absolute())
    with report_errors():
        sys.exit(
            run_here(home, until_idle="--until-idle" in sys.argv, supervised=False, worker_module=sys.argv[2]),
        )


if __name__ == "__main__":
    main()
