"""`keepstep run` with another worker than the real one, which no option of the command line asks for:

python -P -m tests.fakes.daemon HOME MODULE [--until-idle]
"""

from __future__ import annotations

import sys
from pathlib import Path

from cli.daemon import Daemon
from cli.errors import told
from cli.home import Home
from cli.surroundings import Machine


def main() -> None:
    """Run until told to stop, or until idle."""
    home = Home(Path(sys.argv[1]).absolute())
    with told():
        daemon = Daemon(
            home,
            until_idle="--until-idle" in sys.argv,
            write=lambda line: print(line, flush=True),
            surroundings=Machine(home, sys.argv[2]),
        )
        sys.exit(daemon.run())


if __name__ == "__main__":
    main()
