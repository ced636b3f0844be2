"""Groups of commands: what a group does without a command, and where its options may stand."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

HELP = ("-h", "--help")

CONTEXT = {"help_option_names": [*HELP]}
"""Settings for the outermost group; the others inherit them."""

PYDANTIC_PREFIX = "Value error, "
"""Put in front of a message by pydantic, with which typer converts values."""

WITH_VALUE = "--home"
"""The option of all commands that takes a value."""


class CommandGroup(TyperGroup):
    """A group that runs the command `DEFAULT` if none is named: `keepstep versions` lists the versions.

    Options before the command belong to the command: `queue --home H hold JOB` means `queue hold --home H JOB`.
    """

    DEFAULT = ""
    """The command that runs if none is named; "": the group prints its help."""

    OWN: tuple[str, ...] = (*HELP, "--version", "--install-completion", "--show-completion")
    """Options of the group itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in front of its options, then parse."""
        return super().parse_args(ctx, self.command_first(args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command. A message about a wrong value does not name the type of an exception."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix(PYDANTIC_PREFIX)
            raise

    def command_first(self, args: list[str]) -> list[str]:
        """The arguments with the command as the first one.

        >>> group = ListGroup(name="queue", commands={"list": None, "hold": None})
        >>> group.command_first([]), group.command_first(["--home", "list", "hold", "x"])
        (['list'], ['hold', '--home', 'list', 'x'])
        """
        if args and (not args[0].startswith("-") or args[0].partition("=")[0] in self.OWN):
            return args
        skip = False
        for place, each in enumerate(args):
            if not skip and each in self.commands:
                return [each, *args[:place], *args[place + 1 :]]
            if not skip and each in HELP:
                return args
            skip = each == WITH_VALUE
        return [self.DEFAULT, *args] if self.DEFAULT else args or ["--help"]


class ListGroup(CommandGroup):
    """A group that lists its things."""

    DEFAULT = "list"


class ShowGroup(CommandGroup):
    """A group that shows its settings."""

    DEFAULT = "show"


class StatusGroup(CommandGroup):
    """A group that shows a status."""

    DEFAULT = "status"


class TailGroup(CommandGroup):
    """A group that prints its last records."""

    DEFAULT = "tail"
