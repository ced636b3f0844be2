"""What is made outside the home, by processes that may load torch: exported models, weights of an earlier step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import REFUSED, STORAGE_FAILED, UserError
from cli.home import Home

if TYPE_CHECKING:
    from gpu.exchange import Refusal


def new_directory(home: Home, to: Path) -> Path:
    """The directory that a person names for something new. Raises UserError if it cannot be that."""
    target = to.expanduser().absolute()
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} stands there already; nothing was written", "name a directory that does not exist")
    if target.resolve().is_relative_to(home.root.resolve()):
        raise UserError(f"{target} is in the home, where keepstep sweeps what it does not know", "choose another place")
    return target


def ask(module: str, argument: str, *, otherwise: str) -> str:
    """What a module of `gpu` answers. Raises UserError with the advice `otherwise`."""
    # -P: the home has a directory named `journal`, and Python must not import from where it stands
    command = [sys.executable, "-P", "-m", module, argument]
    shown = sys.stderr.isatty()  # then how far it is, and what goes wrong, are seen there
    ended = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=None if shown else subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "TQDM_DISABLE": "1"},
    )
    if ended.returncode != 0:
        reason = (ended.stderr or "").strip().splitlines()[-1:] or [f"exit code {ended.returncode}"]
        raise UserError(f"`{module}` ended without an answer: {reason[0]}", otherwise)
    return ended.stdout


def refused(what: str, answer: Refusal, otherwise: str) -> UserError:
    """A refusal, as it is told to a person."""
    advice = "make room there, or choose another place" if answer.storage else otherwise
    return UserError(f"{what}: {answer.problem}", advice, STORAGE_FAILED if answer.storage else REFUSED)
