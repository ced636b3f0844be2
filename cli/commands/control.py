"""The commands that control the daemon and its jobs. Each journals an event under the lock and prints what it did."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from cli.arguments.resolve import find_job_id
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home, find_home
from cli.output.terminal import print_json, say
from core import commands
from core.commands import AnyCommand
from events import kinds
from events.values import Priority


def add_files(
    home_option: Path | None, files: Sequence[Path], priority: Priority, *, retrain: bool = False, json: bool = False
) -> None:
    """`keepstep add`: check that every file is readable, then queue all of them. Raises UserError."""
    from cli.home.trust import resolve_link
    from cli.inbox.accept import accept_copy, finish_arrivals
    from cli.output.identical import duplicate_text
    from cli.text import shown_text

    home = find_home(home_option)
    for path in files:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise UserError(f"{path} {what}; nothing was added")
        if (why := home.storage.why_unreadable(path.resolve())) is not None:
            raise UserError(f"{path} cannot be read: {why}; nothing was added", "get the right to read it")
    added = list[dict[str, object]]()
    with closing(EventStore.open(home)) as store:
        finish_arrivals(store)
        for path in files:
            for event in accept_copy(store, resolve_link(path), priority, again=retrain, name=path.name):
                added.append(
                    {
                        "file": str(path),
                        "job": getattr(event, "job", None),
                        "status": "duplicate" if isinstance(event, kinds.FileDuplicate) else "queued",
                    }
                )
                if json:
                    continue
                if isinstance(event, kinds.FileDuplicate):
                    say(f"{shown_text(path.name)} {duplicate_text(event.job, store.state)}")
                else:
                    say(f"{shown_text(path.name)} is queued ({len(store.state.queue)} waiting)")
    if json:
        print_json({"files": added, "waiting": len(store.state.queue), "daemon": daemon_is_alive(home)})
    elif not daemon_is_alive(home):
        say("no daemon runs; `keepstep run` starts one")


def pause(home_option: Path | None) -> None:
    """`keepstep pause`."""
    home = _execute(home_option, commands.Pause())
    say("pausing at the next step" if daemon_is_alive(home) else "paused; the next daemon starts paused")


def resume(home_option: Path | None) -> None:
    """`keepstep resume`."""
    home = _execute(home_option, commands.Resume())
    say("resumed" if daemon_is_alive(home) else "no longer paused; `keepstep run` continues the training")


def stop(home_option: Path | None) -> None:
    """`keepstep stop`."""
    home = find_home(home_option)
    _execute(home_option, commands.Stop(alive=daemon_is_alive(home)))
    say("the daemon commits a checkpoint at the next step and stops")


def skip(home_option: Path | None, job: str | None) -> None:
    """`keepstep skip`."""
    from cli.inbox.accept import skip_job

    with closing(EventStore.open(find_home(home_option))) as store:
        events = skip_job(store, None if job is None else find_job_id(store.state, job))
    running = any(isinstance(event, kinds.JobSkipRequested) for event in events)
    say("the job ends at its next step; what it trained is committed" if running else "skipped")


def retry(home_option: Path | None, job: str) -> None:
    """`keepstep retry`."""
    with closing(EventStore.open(find_home(home_option))) as store:
        store.execute(commands.Retry(job=find_job_id(store.state, job)))
    say("queued again")


def request_consolidation(home_option: Path | None, description: str, *, after_current: bool) -> None:
    """`keepstep consolidate`."""
    home = _execute(home_option, commands.RequestConsolidation(description=description, after_current=after_current))
    if not daemon_is_alive(home):
        when = "no daemon runs: `keepstep run` starts it"
    else:
        when = f"it starts {'after the current file' if after_current else 'when no file waits'}"
    say(f"consolidation requested; {when}")


def cancel_consolidation(home_option: Path | None) -> None:
    """`keepstep consolidate --cancel`."""
    _execute(home_option, commands.CancelConsolidation())
    say("consolidation cancelled")


def _execute(home_option: Path | None, command: AnyCommand) -> Home:
    home = find_home(home_option)
    with closing(EventStore.open(home)) as store:
        store.execute(command)
    return home
