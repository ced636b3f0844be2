"""`keepstep status` without the command-line library.

It is what people and prompts ask again and again, and building typer's parser (with the validators that it makes
for each parameter) would take longer than everything else it does. So the plain forms are read here, by hand; every
other one (`--watch`, `--help`, a mistake) is typer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Plain(NamedTuple):
    """A status command that needs no parser."""

    home: Path | None
    json: bool


def plain_status(arguments: Sequence[str]) -> Plain | None:
    """What `arguments` (without the program's name) ask for, if it is a status in a plain form.

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
