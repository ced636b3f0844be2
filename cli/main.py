"""The entry point `keepstep`."""

from __future__ import annotations

import sys

from cli.errors import report_errors
from cli.status.fast import plain_status
from gpu.runtime.streams import prepare_streams


def main() -> None:
    """Run the command of this process's arguments."""
    with report_errors():
        prepare_streams()
        plain = plain_status(sys.argv[1:])
        if plain is not None:
            from cli.status.report import show_status

            show_status(plain.home, json=plain.json)
            return
        from cli.app import app

        app(prog_name="keepstep")
