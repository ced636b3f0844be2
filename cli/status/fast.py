"""`keepstep status` without typer.

People and shell prompts run it often, and building typer's parser takes longer than the rest of the command. This
module parses the plain forms; typer parses every other one (`--watch`, `--help`, a mistake).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Plain(NamedTuple):
    """The options of a plain status command."""

    home: Path | None
    json: bool


def plain_status(arguments: Sequence[str]) -> Plain | None:
    """Parse `arguments` (without the program's name); None if they are not a plain status command.

    >>> plain_status(["status", "--json"])
    Plain(home=None, json=True)
    >>> plain_status(["status", "--watch"]) is None
    True
    """
    if arguments[:1] != ["status"]:
        return None
    home, json = None, False
    rest = iter(arguments[1:])
    for argument in rest:
        if argument == "--json":
            json = True
        elif argument == "--home":
            value = next(rest, None)
            if value is None or value.startswith("-"):
                return None
            home = Path(value)
        elif argument.startswith("--home="):
            home = Path(argument.removeprefix("--home="))
        else:
            return None
    return Plain(home, json)
