"""`keepstep crashes`: what failed, what that means, and what to do about it."""

from __future__ import annotations

import msgspec

from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.output.terminal import local, print_json
from cli.text import printable_lines
from projections.failures import Failure, Failures

SHOWN = 10
"""The last ones; as many as fit on a screen, five lines each."""


def show_crashes(home: Home, *, all_of_them: bool, json: bool) -> None:
    """The last ones or all, the newest last. Raises journal.errors.JournalError."""
    crashes = read_crashes(home, None if all_of_them else SHOWN)
    if json:
        print_json([{**msgspec.to_builtins(crash), "logs": logs_of(crash)} for crash in crashes])
    elif not crashes:
        print("nothing has gone wrong in this home" if all_of_them else "nothing has gone wrong")
    else:
        print("\n\n".join(lines_of(crash) for crash in crashes))
    if not json and (gone := _gone(home)) is not None:
        print(gone)


def _gone(home: Home) -> str | None:
    """What has gone wrong and is not journaled yet."""
    daemon = load_state(home)[0].state.daemon
    if daemon.status in {"off", "off_paused"} or daemon_is_alive(home):
        return None
    return f"the daemon (pid {daemon.pid}) ended without a word; the next `keepstep run` tells what that interrupted"


def read_crashes(home: Home, number: int | None) -> list[Failure]:
    """The last `number` crashes, or all, the oldest first. Reads the whole journal."""
    from core.evolve import evolve
    from core.state import State
    from events.codec import decode_record
    from journal import history

    state, crashes = State(), Failures(number)
    for record in history(home.journal, decode_record, storage=home.storage):
        crashes.observe(state, record)
        state = evolve(state, record.event)
    return list(crashes.found)


def lines_of(crash: Failure) -> str:
    """One crash for a person."""
    attempt = f", attempt {crash.attempt}" if crash.attempt is not None and crash.kind != "daemon_held" else ""
    lost = f"; not committed: {steps(crash.steps_lost)}" if crash.steps_lost else ""
    return "\n".join(
        [
            f"{local(crash.at)}  {crash.name}  {crash.failure}: {printable_lines(crash.what)}{attempt}",
            *(f"    {line}" for line in printable_lines(crash.message).split("\n")),
            f"    means  {crash.meaning}{lost}",
            f"    do     {crash.advice}",
            f"    see    `keepstep explain {crash.name}`{_and_the_log(crash)}",
        ]
    )


def steps(number: int) -> str:
    """So many, in words."""
    return "1 step" if number == 1 else f"{number} steps"


def _and_the_log(crash: Failure) -> str:
    logs = logs_of(crash)
    return f", and for its trace `{logs}`" if logs is not None else ""


def logs_of(crash: Failure) -> str | None:
    """The command that shows what the log has about it."""
    return f"keepstep logs --attempt {crash.attempt}" if crash.attempt is not None else None
