"""The entry point `keepstep`. Imports little, so that Ctrl-C is handled from the start."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""128 + SIGINT, as shells count."""


def main() -> None:
    """Run the command of this process's arguments."""
    _handle_early_interrupts()
    try:
        _run()
    except KeyboardInterrupt:  # it came while the end of the command was reported
        _end_after_command()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            _end_process()
        raise


def _run() -> None:
    from cli.cancelled import cancelled_text
    from cli.errors import report_errors
    from cli.status.fast import plain_status
    from gpu.runtime.streams import prepare_streams

    with report_errors(cancelled_text(sys.argv[1:])):
        prepare_streams()
        plain = plain_status(sys.argv[1:])
        if plain is not None:
            from cli.status.report import show_status

            _interrupts_raise()
            show_status(plain.home, json=plain.json)
            return
        from cli.app import app

        _interrupts_raise()
        app(prog_name="keepstep")


def _handle_early_interrupts() -> None:
    """End at once on Ctrl-C: while modules are imported nothing is open, and a traceback would name no cause."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _interrupts_raise() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, so that open files are closed and half-written ones removed."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise within the command; end the process after it, where nothing would catch the exception."""
    outer = frame
    while outer is not None:
        if outer.f_code is _run.__code__:
            signal.default_int_handler(number, frame)
        outer = outer.f_back
    _end_after_command()


def _end_after_command() -> NoReturn:
    os.write(2, b"Cancelled; the command had already ended\n")
    os._exit(INTERRUPTED)


def _end_process() -> None:
    """End with the exit code. Python would kill itself with SIGINT if the signal arrived within `exec`."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(INTERRUPTED)


def _end(_number: int, _frame: object) -> None:
    os.write(2, b"Cancelled; nothing was changed\n")
    os._exit(INTERRUPTED)
