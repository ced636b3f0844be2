"""What `keepstep doctor` looks at, and how a finding looks. The checks are in `checks_*.py`, one function each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal, NamedTuple

from cli.config.schema import Config, load_config
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from core.errors import IllegalEvent
from core.state import State
from events.errors import EventError
from journal.errors import JournalError

Level = Literal["pass", "warn", "fail"]


class Finding(NamedTuple):
    """What one check came to."""

    level: Level
    says: str
    """One sentence."""
    advice: str = ""
    """A command, or what else is to be done; where it passes, nothing."""


class Unknown(Exception):
    """What a check needs cannot be read, and another check says why. Data: what it is."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"not looked at, because {what} cannot be read")


class DoctorContext:
    """A home, however damaged. What is read once is kept; what cannot be read says so wherever it is needed."""

    def __init__(self, home: Home, *, deep: bool = False) -> None:
        self.home = home
        self.deep = deep

    @cached_property
    def state(self) -> State:
        """The present, by the journal. Raises Unknown."""
        from cli.home.snapshot_reader import load_state

        try:
            return load_state(self.home)[0].state
        except (JournalError, EventError, IllegalEvent, OSError) as error:
            raise Unknown("the journal") from error

    @cached_property
    def config(self) -> Config:
        """Raises UserError."""
        return load_config(self.home.config, storage=self.home.storage)

    @property
    def alive(self) -> bool:
        """Whether a daemon runs. Raises OSError."""
        return daemon_is_alive(self.home)


class Check(NamedTuple):
    """One line of the list."""

    name: str
    look: Callable[[DoctorContext], Finding]
    """Changes nothing. May raise: the others go on."""
    fix: Callable[[DoctorContext], list[str]] | None = None
    """Mends what can be mended without losing anything; what it did, in words. May raise, too."""


def passed(says: str) -> Finding:
    """All is well."""
    return Finding("pass", says)


def warned(says: str, advice: str) -> Finding:
    """It works, and somebody should look."""
    return Finding("warn", says, advice)


def failed(says: str, advice: str) -> Finding:
    """It does not work, or will not."""
    return Finding("fail", says, advice)


def size(size_bytes: float) -> str:
    """Bytes as people say them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{size_bytes:.0f} bytes"
