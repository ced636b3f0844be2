"""Run a person's program that judges an answer: no shell, few environment variables, limits, and no process is left."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

VARIABLES = ("PATH", "HOME", "LANG")
"""The environment variables that a program gets."""

TIMEOUT_S = 10.0
"""The time that a program has for one answer, seconds."""

GUARD_S = 15.0
"""The time that the guard has after that, to end all processes, seconds."""

WAIT_S = 1.0
"""Seconds between two calls of `on_wait`."""


class ProgramEnd(NamedTuple):
    """How a program ended."""

    code: int | None
    """Its exit code; below 0: the signal that killed it; None: it did not end by itself."""
    problem: str
    """Why there is no exit code; "": there is one."""
    error: str
    """The end of its standard error."""


def split_command(command: str, root: Path) -> list[str]:
    """Split a command as a shell does. A word that begins with `./` is a path in the home `root`, because the program
    runs in a temporary directory. Raises ValueError for a quote that is not closed.

    >>> split_command("python3 ./evaluation/check.py 'a b'", Path("/home"))
    ['python3', '/home/evaluation/check.py', 'a b']
    """
    return [os.fspath(root / word[2:]) if word.startswith("./") else word for word in shlex.split(command)]


def program_problem(command: Sequence[str]) -> str | None:
    """Return why a command cannot be run: its program is missing, or all users can write to it. None: it can."""
    if not command or not command[0]:
        return "the command is empty"
    if "/" in command[0] and not command[0].startswith("/"):
        return f"the program {command[0]} is a relative path; begin it with ./ (a path in the home) or with /"
    found = shutil.which(command[0])
    if found is None:
        return f"there is no program {command[0]} that can be run"
    if (open_program := open_to_all(command[0], Path("/"))) is not None:
        return f"all users can write to {open_program}; run chmod o-w"
    return None


def open_to_all(program: str, directory: Path) -> Path | None:
    """Return the file of a program, if all users can write to it: they could run commands as this user."""
    found = shutil.which(directory / program if "/" in program else program)
    if found is None:  # the start reports it
        return None
    with contextlib.suppress(OSError):
        return Path(found) if Path(found).stat().st_mode & stat.S_IWOTH else None
    return None


def run_program(
    command: Sequence[str], given: str, timeout_s: float = TIMEOUT_S, on_wait: Callable[[], None] = lambda: None
) -> ProgramEnd:
    """Run a command with `given` on its standard input. Calls `on_wait` about every second.

    Raises what `on_wait` raises; the program is then killed.
    """
    if (problem := program_problem(command)) is not None:
        return ProgramEnd(None, problem, "")
    environment = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    order = {"command": list(command), "environment": environment, "input": given, "timeout_s": timeout_s}
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", os.fspath(Path(__file__).with_name("program_guard.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a signal to the worker's group must not end it before it has killed the program
    )
    assert guard.stdin is not None  # both are pipes
    assert guard.stdout is not None
    with guard.stdin, guard.stdout:  # closing the input tells the guard to kill the program and end
        with contextlib.suppress(BrokenPipeError):
            guard.stdin.write(json.dumps(order).encode() + b"\n")
            guard.stdin.flush()
        waited = 0.0
        while waited < timeout_s + GUARD_S:
            with contextlib.suppress(subprocess.TimeoutExpired):
                guard.wait(WAIT_S)
                break
            waited += WAIT_S
            on_wait()
        else:
            guard.kill()
        answer = guard.stdout.read() if guard.wait() == 0 else b""
    if not answer:
        return ProgramEnd(None, "it could not be watched, so its answer does not count", "")
    return _end(json.loads(answer), command[0], timeout_s)


def _end(result: dict[str, object], program: str, timeout_s: float) -> ProgramEnd:
    code, error = result["code"], str(result["error"]).strip()
    if isinstance(code, int):
        return ProgramEnd(code, "", error)
    if result["why"] == "start":
        return ProgramEnd(None, f"{program} could not be started: {error}", "")
    return ProgramEnd(None, f"it did not end within {timeout_s:g} s and was killed", error)


def describe_code(code: int) -> str:
    """Return an exit code in words.

    >>> describe_code(3), describe_code(-9)
    ('it ended with exit code 3', 'it was killed by SIGKILL')
    """
    return f"it ended with exit code {code}" if code >= 0 else f"it was killed by {signal.Signals(-code).name}"
