"""`keepstep failures`: what failed, what it means, and what to do."""

from __future__ import annotations

import msgspec

from cli.commands.common import count, read_state, replay
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from cli.output.terminal import print_json, say
from cli.output.times import local
from cli.text import printable_lines
from projections.failures import Failure, Failures

SHOWN = 10
"""Failures without --all; they fill a screen, five lines each."""


def show_failures(home: Home, *, all_of_them: bool, json: bool) -> None:
    """Print the last failures or all, the newest last. Raises journal.errors.JournalError."""
    failures = read_failures(home, None if all_of_them else SHOWN)
    if json:
        print_json([{**msgspec.to_builtins(failure), "logs": logs_of(failure)} for failure in failures])
    elif not failures:
        say("nothing has failed")
    else:
        say("\n\n".join(failure_text(failure) for failure in failures), indent=11)
    if not json and (gone := _unreported_end(home)) is not None:
        say(gone)


def _unreported_end(home: Home) -> str | None:
    """A line about a daemon that died and whose end is not journaled yet."""
    daemon = read_state(home).daemon
    if daemon.status in {"off", "off_paused"} or daemon_is_alive(home):
        return None
    return f"the daemon (pid {daemon.pid}) died; the next `keepstep run` journals what it interrupted"


def read_failures(home: Home, number: int | None) -> list[Failure]:
    """The last `number` failures, or all (None), the oldest first. Reads the whole journal."""
    failures = Failures(number)
    for before, record, _ in replay(home):
        failures.observe(before, record)
    return list(failures.found)


def failure_text(failure: Failure) -> str:
    """A failure as text."""
    attempt = f", attempt {failure.attempt}" if failure.attempt is not None and failure.kind != "daemon_held" else ""
    lost = f"; not committed: {count(failure.steps_lost, 'step')}" if failure.steps_lost else ""
    return "\n".join(
        [
            f"{local(failure.at)}  {failure.name}  {failure.failure}: {printable_lines(failure.what)}{attempt}",
            *(f"    {line}" for line in printable_lines(failure.message).split("\n")),
            f"    means  {failure.meaning}{lost}",
            f"    do     {failure.advice}",
            f"    see    `keepstep explain {failure.name}`{_log_hint(failure)}",
        ]
    )


def _log_hint(failure: Failure) -> str:
    logs = logs_of(failure)
    return f", `{logs}`" if logs is not None else ""


def logs_of(failure: Failure) -> str | None:
    """The command that shows its log lines; None if it has none."""
    return f"keepstep logs --attempt {failure.attempt}" if failure.attempt is not None else None
