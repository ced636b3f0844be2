"""Modules of `gpu` that run as processes of their own, because the shell never loads torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from cli.errors import REFUSED, STORAGE_FAILED, UserError
from gpu.worker import ENVIRONMENT

if TYPE_CHECKING:
    from msgspec import Struct

    from gpu.ipc.protocol import Refusal


ARGUMENT_BYTES = 64 * 2**10
"""Longer orders go by another way: Linux takes no argument of more than 128 KiB."""


def command(module: str, *arguments: str) -> list[str]:
    """What runs a module of ours."""
    # -P: the home has a directory named `journal`, and Python must not import from where it stands
    return [sys.executable, "-P", "-m", module, *arguments]


def exit_status(exit_code: int, said: str) -> str:
    """Why a process failed: the signal that killed it, or the last line of what it `said`."""
    if exit_code < 0:
        return f"it was killed by {signal.Signals(-exit_code).name}"
    return (said.strip().splitlines() or ["it said nothing"])[-1]


def ask(module: str, order: Struct | str, *, otherwise: str) -> bytes:
    """What a module answers to an order, or to a path: one line of JSON. Raises UserError with the advice
    `otherwise`."""
    from gpu.ipc.protocol import ON_INPUT, encode_request

    argument = order if isinstance(order, str) else encode_request(order)
    shown = sys.stderr.isatty()  # then how far it is, and what goes wrong, are seen there
    long = len(os.fsencode(argument)) > ARGUMENT_BYTES
    ended = subprocess.run(
        command(module, ON_INPUT if long else argument),
        input=argument.encode() if long else b"",
        stdout=subprocess.PIPE,
        stderr=None if shown else subprocess.PIPE,
        check=False,
        env={**os.environ, **ENVIRONMENT, "TQDM_DISABLE": "1"},
    )
    if ended.returncode != 0:
        reason = exit_status(ended.returncode, (ended.stderr or b"").decode(errors="backslashreplace"))
        raise UserError(f"`{module}` ended without an answer: {reason}", otherwise)
    return ended.stdout


def refused(what: str, answer: Refusal, otherwise: str) -> UserError:
    """A refusal, as it is told to a person."""
    advice = "make room there, or choose another place" if answer.storage else otherwise
    return UserError(f"{what}: {answer.problem}", advice, STORAGE_FAILED if answer.storage else REFUSED)
