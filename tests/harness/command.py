"""A command of the command line in a fork of this process, which has its modules already: a start takes milliseconds.

It has a process, streams and an environment to itself. `tests/cli/test_every_command.py` and the tests of Ctrl-C start
commands as a shell does.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess
from typing import NoReturn

from cli.app import app  # noqa: F401  # the fork has it
from cli.main import main


def run_forked(
    arguments: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None
) -> CompletedProcess[str]:
    """Run `keepstep` with these arguments. Standard input is empty."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        pid = os.fork()
        if pid == 0:
            _in_child(arguments, environment, cwd, output.fileno(), errors.fileno())
        _, status = os.waitpid(pid, 0)
        said = []
        for file in (output, errors):
            file.seek(0)
            said.append(file.read().decode())
    return CompletedProcess(list(arguments), os.waitstatus_to_exitcode(status), *said)


def _in_child(
    arguments: Sequence[str], environment: Mapping[str, str], cwd: Path | None, output: int, errors: int
) -> NoReturn:
    """Replace what the process inherited, and run the command. Exit codes are those of a Python process."""
    code = 0
    try:
        os.environ.clear()
        os.environ.update(environment)
        if cwd is not None:
            os.chdir(cwd)
        for target, source in enumerate((os.open(os.devnull, os.O_RDONLY), output, errors)):
            os.dup2(source, target)
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="utf-8", write_through=True)
            for number in (1, 2)
        )
        sys.argv = ["keepstep", *arguments]
        main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001  # as Python ends: with a traceback
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # as at the end of Python
                stream.flush()
        os._exit(code)
