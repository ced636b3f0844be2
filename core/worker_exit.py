"""Classification of worker exits into kinds of failures. Pure: what was seen of the exit comes in.

The first row that fits counts. `says` is what the last lines of its output speak of.

    how it ended            and                                        is classified as
    SIGKILL                 the system killed a process for memory     out_of_memory
    SIGKILL                 –                                          killed      (a person, or another program)
    any other way           says: memory                               out_of_memory
    any other way           says: driver                               driver
    SIGSEGV, SIGBUS, …      –                                          code        (a crash in native code)
    another signal          –                                          killed
    an exit code            –                                          code        (it exited by itself)
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from events.values import Failure

CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS"})
"""Signals that the processor or a library raises for a faulty program; nobody sends these."""


class Ending(Struct, frozen=True, kw_only=True):
    """The exit of a process, as it was seen."""

    killed_by: str | None = None
    """The name of a signal."""
    exit_code: int | None = None
    was_up: bool = True
    memory_kills: int = 0
    """Processes that the system killed for lack of memory while this one lived."""
    says: Literal["memory", "driver"] | None = None

    def __str__(self) -> str:
        how = f"was killed by {self.killed_by}" if self.killed_by else f"ended with exit code {self.exit_code}"
        return f"the worker {how}{'' if self.was_up else ' before it was up'}"


def classify(ending: Ending) -> tuple[Failure, str]:
    """The kind of failure, and a message."""
    failure, why = _row(ending)
    return failure, f"{ending}{why}; see `keepstep logs`"


def _row(ending: Ending) -> tuple[Failure, str]:
    if ending.killed_by == "SIGKILL":
        if ending.memory_kills:
            return "out_of_memory", ": the machine had no memory left, and the system ended it"
        return "killed", ", by a person or another program"
    if ending.says == "memory":
        return "out_of_memory", ": it could not get the memory that it asked for"
    if ending.says == "driver":
        return "driver", ": its last words are the GPU driver's"
    if ending.killed_by in CRASHES:
        return "code", ": a crash in native code"
    return ("killed", "") if ending.killed_by else ("code", "")
