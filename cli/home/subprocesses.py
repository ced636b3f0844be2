"""Run modules of `gpu` as subprocesses, because the shell never loads torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from cli.errors import REFUSED, STORAGE_FAILED, UserError

if TYPE_CHECKING:
    from msgspec import Struct

    from gpu.ipc.protocol import Refusal


ARGUMENT_BYTES = 64 * 2**10
"""Longer orders go to standard input: Linux limits one argument to 128 KiB."""


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of keepstep."""
    # -P: Python must not import from the current directory, which may be a home with a `journal/`
    return [sys.executable, "-P", "-m", module, *arguments]


def describe_exit(exit_code: int, said: str) -> str:
    """Why a process failed: the signal that killed it, or the last line of its output `said`."""
    if exit_code < 0:
        return f"it was killed by {signal.Signals(-exit_code).name}"
    return (said.strip().splitlines() or ["it printed nothing"])[-1]


def ask(module: str, order: Struct | str, *, otherwise: str) -> bytes:
    """Run a module with an order, or a path. Returns its answer, one line of JSON.

    Raises UserError with the advice `otherwise` if it fails.
    """
    from gpu.ipc.protocol import ON_INPUT, encode_request
    from gpu.worker import ENVIRONMENT

    argument = order if isinstance(order, str) else encode_request(order)
    shown = sys.stderr.isatty()  # the user then sees its progress and errors there
    long = len(os.fsencode(argument)) > ARGUMENT_BYTES
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the child inherits it: Ctrl-C is ours
    try:
        child = subprocess.Popen(
            command(module, ON_INPUT if long else argument),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if shown else subprocess.PIPE,
            env={**os.environ, **ENVIRONMENT, "TQDM_DISABLE": "1"},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    with child:
        try:
            answer, errors = child.communicate(argument.encode() if long else b"")
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        reason = describe_exit(child.returncode, (errors or b"").decode(errors="backslashreplace"))
        raise UserError(f"`{module}` ended without an answer: {reason}", otherwise)
    return answer


def refused(what: str, answer: Refusal, otherwise: str) -> UserError:
    """A refusal of a module as an error for the user."""
    advice = "free disk space there, or choose another place" if answer.storage else otherwise
    return UserError(f"{what}: {answer.problem}", advice, STORAGE_FAILED if answer.storage else REFUSED)
