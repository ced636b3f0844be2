"""The commands of `keepstep home`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.arguments.groups import CommandGroup
from cli.commands.common import HomeOption, JsonOption
from cli.home.paths import find_home


class InfoGroup(CommandGroup):
    """A group that shows what it is about."""

    DEFAULT = "info"


app = typer.Typer(cls=InfoGroup, help="Show, measure and move the home.")


@app.command()
def info(home: HomeOption = None, json: JsonOption = False) -> None:
    """Show the path, the id, the age and the size of the home."""
    from cli.commands.homes.size import show_info

    show_info(find_home(home, reads_only=True), json=json)


@app.command()
def size(home: HomeOption = None, json: JsonOption = False) -> None:
    """Show the size of each folder, and which command frees how much of it."""
    from cli.commands.homes.size import show_sizes

    show_sizes(find_home(home, reads_only=True), json=json)


@app.command()
def move(
    destination: Annotated[Path, typer.Argument(help="The new path, which must not exist; also on another disk.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Move the home, while its daemon is stopped.

    To another file system it copies and verifies every byte first. The old home is deleted last.
    """
    from cli.commands.homes.move import move_home

    move_home(find_home(home), destination, json=json)
