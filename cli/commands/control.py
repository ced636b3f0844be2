"""Commands that change something: each appends its event under the lock and says what it did."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import typer

from cli.commands.queue import job_id
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home, find_home
from core import commands
from core.commands import AnyCommand
from events import kinds
from events.kinds import AnyEvent
from events.values import PRIORITIES


def add_files(home_option: Path | None, files: Sequence[Path], priority: str, *, again: bool = False) -> None:
    """`keepstep add`: every file is looked at before the first is taken."""
    from cli.home.trust import resolve_link
    from cli.inbox.accept import accept_copy, finish_arrivals
    from cli.output.identical import duplicate_text
    from cli.text import shown_text

    home = find_home(home_option)
    lane = next((name for name in PRIORITIES if name == priority), None)
    if lane is None:
        raise UserError(f"unknown priority {priority!r}", f"choose one of {', '.join(PRIORITIES)}")
    for path in files:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise UserError(f"{path} {what}; nothing was added")
        if (why := home.storage.why_unreadable(path.resolve())) is not None:
            raise UserError(f"{path} cannot be read: {why}; nothing was added", "get the right to read it")
    with closing(EventStore.open(home)) as store:
        finish_arrivals(store)
        for path in files:
            events = accept_copy(store, resolve_link(path), lane, again=again, name=path.name)
            for event in events:
                if isinstance(event, kinds.FileDuplicate):
                    typer.echo(f"{shown_text(path.name)} {duplicate_text(event.job, store.state)}")
                else:
                    typer.echo(f"{shown_text(path.name)} is in the queue, {len(store.state.queue)} waiting")
    if not daemon_is_alive(home):
        typer.echo("no daemon runs; `keepstep run` starts one")


def pause(home_option: Path | None) -> None:
    """`keepstep pause`."""
    home, _ = _execute(home_option, commands.Pause())
    typer.echo("pausing at the next step" if daemon_is_alive(home) else "paused; the next daemon starts so")


def resume(home_option: Path | None) -> None:
    """`keepstep resume`."""
    home, _ = _execute(home_option, commands.Resume())
    typer.echo("going on" if daemon_is_alive(home) else "no longer paused; `keepstep run` goes on")


def stop(home_option: Path | None) -> None:
    """`keepstep stop`."""
    home = find_home(home_option)
    _execute(home_option, commands.Stop(alive=daemon_is_alive(home)))
    typer.echo("stopping after a commit at the next step")


def skip(home_option: Path | None, job: str | None) -> None:
    """`keepstep skip`."""
    from cli.inbox.accept import skip_job

    with closing(EventStore.open(find_home(home_option))) as store:
        events = skip_job(store, None if job is None else job_id(store.state, job))
    running = any(isinstance(event, kinds.JobSkipRequested) for event in events)
    typer.echo("skipped at the next step; what it has learned is committed" if running else "skipped")


def retry(home_option: Path | None, job: str) -> None:
    """`keepstep retry`."""
    with closing(EventStore.open(find_home(home_option))) as store:
        store.execute(commands.Retry(job=job_id(store.state, job)))
    typer.echo("back in the queue")


def request_consolidation(home_option: Path | None, description: str, *, after_current: bool) -> None:
    """`keepstep consolidate`."""
    wanted = commands.RequestConsolidation(description=description, after_current=after_current)
    home, _ = _execute(home_option, wanted)
    if not daemon_is_alive(home):
        typer.echo("asked for; no daemon runs: `keepstep run` does it")
    else:
        typer.echo(f"asked for; it begins {'after the file in hand' if after_current else 'when no file waits'}")


def cancel_consolidation(home_option: Path | None) -> None:
    """`keepstep consolidate --cancel`."""
    _execute(home_option, commands.CancelConsolidation())
    typer.echo("it is not asked for any more")


def _execute(home_option: Path | None, command: AnyCommand) -> tuple[Home, Sequence[AnyEvent]]:
    home = find_home(home_option)
    with closing(EventStore.open(home)) as store:
        return home, store.execute(command)
