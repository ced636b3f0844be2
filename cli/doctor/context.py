"""The input and the result of the checks of `keepstep doctor`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal, NamedTuple

from cli.commands.common import read_state
from cli.config.schema import Config, load_config
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from core.errors import IllegalEvent
from core.state import State
from events.errors import EventError
from journal.errors import JournalError

Level = Literal["pass", "warn", "fail"]


class Finding(NamedTuple):
    """The result of a check."""

    level: Level
    message: str
    """One sentence."""
    advice: str = ""
    """The action that fixes it, with the command; "" if the check passes."""


class Unreadable(Exception):
    """A check needs something unreadable, and another check reports why."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"not checked: {what} cannot be read")


class DoctorContext:
    """A home, maybe damaged. It caches what it reads, and raises where something cannot be read."""

    def __init__(self, home: Home, *, deep: bool = False) -> None:
        self.home = home
        self.deep = deep

    @cached_property
    def state(self) -> State:
        """The state now. Raises Unreadable."""
        try:
            return read_state(self.home)
        except (JournalError, EventError, IllegalEvent, OSError) as error:
            raise Unreadable("the journal") from error

    @cached_property
    def config(self) -> Config:
        """The parsed keepstep.toml. Raises UserError."""
        return load_config(self.home.config, storage=self.home.storage)

    @property
    def alive(self) -> bool:
        """True if a daemon runs. Raises OSError."""
        return daemon_is_alive(self.home)


class Check(NamedTuple):
    """A check of the list."""

    name: str
    run: Callable[[DoctorContext], Finding]
    """Changes nothing. May raise: the other checks still run."""
    fix: Callable[[DoctorContext], list[str]] | None = None
    """Fixes what can be fixed without losing anything. Returns lines about what it did. May raise."""


def passed(message: str) -> Finding:
    """A finding without a problem."""
    return Finding("pass", message)


def warned(message: str, advice: str) -> Finding:
    """A problem that does not stop the work."""
    return Finding("warn", message, advice)


def failed(message: str, advice: str) -> Finding:
    """A problem that stops the work, now or soon."""
    return Finding("fail", message, advice)
