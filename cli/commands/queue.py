"""`keepstep queue` shows what waits, in order; its commands change that order, hold jobs back and take them out.

A job that is in hand is left alone by all of them: what is begun is finished first, and `keepstep skip` ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands.journal import HomeOption, JsonOption
from cli.errors import UserError
from cli.home.paths import find_home
from events.values import PRIORITIES

if TYPE_CHECKING:
    from core.commands import AnyCommand
    from core.job import Job
    from core.state import State
    from events.kinds import JobMoved

ROWS_SHOWN = 50
"""As much as people look through; the journal is not read to its end for more."""

app = typer.Typer(name="queue", invoke_without_command=True)

JobArgument = Annotated[str, typer.Argument(help="Name or first digits of the id of a job that waits.")]


@app.callback()
def listing(
    context: typer.Context,
    home: HomeOption = None,
    json: JsonOption = False,
    everything: Annotated[bool, typer.Option("--all", help=f"Every job, not the first {ROWS_SHOWN} alone.")] = False,
) -> None:
    """Show what runs and what waits, in order; change the order, hold jobs back, take them out."""
    if context.invoked_subcommand is None:
        show_queue(home, json=json, everything=everything)
    else:
        context.obj = home  # `queue --home H hold JOB` means the same as `queue hold --home H JOB`


@app.command()
def move(
    context: typer.Context,
    job: JobArgument,
    priority: Annotated[str | None, typer.Option(help="high, normal or low: to the back of that lane.")] = None,
    first: Annotated[bool, typer.Option("--first", help="To the front of its lane, or of that of --priority.")] = False,
    before: Annotated[str | None, typer.Option(metavar="JOB", help="Directly before this one, in its lane.")] = None,
    home: HomeOption = None,
) -> None:
    """Give a waiting job another place."""
    from core.commands import MoveJob

    lane = next((name for name in PRIORITIES if name == priority), None)
    if priority is not None and lane is None:
        raise typer.BadParameter(f"there is no priority {priority!r}; choose one of {', '.join(PRIORITIES)}")
    if first and before is not None:
        raise typer.BadParameter("--first and --before are two places; choose one")
    if priority is None and not first and before is None:
        raise typer.BadParameter("say where to: --priority, --first or --before")

    def wanted(state: State) -> AnyCommand:
        other = job_id(state, before) if before is not None else None
        return MoveJob(job=job_id(state, job), priority=lane, first=first, before=other)

    state, event = _ordered(home or context.obj, wanted)
    typer.echo(f"{_name(state, event.job)} {_where(state, event)}")


@app.command()
def hold(context: typer.Context, job: JobArgument, home: HomeOption = None) -> None:
    """Pass a waiting job over, its place kept, until it is released."""
    from core.commands import HoldJob

    state, event = _ordered(home or context.obj, lambda state: HoldJob(job=job_id(state, job)))
    name = _name(state, event.job)
    typer.echo(f"{name} is held; `keepstep queue release {event.job[:12]}` lets it have its turn")


@app.command()
def release(context: typer.Context, job: JobArgument, home: HomeOption = None) -> None:
    """Let a held job have its turn again."""
    from core.commands import ReleaseJob

    state, event = _ordered(home or context.obj, lambda state: ReleaseJob(job=job_id(state, job)))
    typer.echo(f"{_name(state, event.job)} waits for its turn again")


@app.command()
def remove(context: typer.Context, job: JobArgument, home: HomeOption = None) -> None:
    """Take a job out that nothing was learned from; its file goes to rejected/ and can be dropped in again."""
    from cli.home.event_store import EventStore
    from cli.inbox.accept import remove_job
    from cli.text import printable

    found = find_home(home or context.obj)
    with closing(EventStore.open(found)) as store:
        removed, path = remove_job(store, job_id(store.state, job))
    name = printable(removed.name)
    if removed.keeps_data:
        typer.echo(f"{name} is out of the queue; its file stays, for what was learned from it before stays learned")
    elif path is None:
        typer.echo(f"{name} is out of the queue; its file goes to rejected/ when there is room on the disk")
    else:
        typer.echo(f"{name} is out of the queue; its file is {printable(found.relative(path))}")


def show_queue(home_option: Path | None, *, json: bool, everything: bool = False) -> None:
    """`keepstep queue`."""
    from cli.home.identity import daemon_is_alive
    from cli.home.snapshot_reader import load_state
    from cli.output.terminal import print_json, print_listing

    home = find_home(home_option, reads_only=True)
    folded, _ = load_state(home)
    state = folded.state
    rows = _rows(state, alive=daemon_is_alive(home))
    if json:
        print_json(list(rows))
        return
    shown = list(rows if everything else islice(rows, ROWS_SHOWN))
    if not shown:
        print("nothing waits")
        return
    print_listing(["", "id", "name", "status", "priority", "size"], [_cells(row) for row in shown])
    more = len(state.training.in_progress) + len(state.queue) + len(state.outcomes.failed) - len(shown)
    if more:
        print(f"and {more} more; `keepstep queue --all` lists them")


def _rows(state: State, *, alive: bool) -> Iterator[dict[str, Any]]:
    from core.transitions import RUNNING

    for job in state.training.in_progress:
        status = "interrupted" if job.status in RUNNING and not alive else job.status
        yield _row(job, 0, status)
    for position, job in enumerate(state.queue, 1):
        yield _row(job, position, job.status)
    for job in state.outcomes.failed.values():
        yield _row(job, None, job.status)


def _row(job: Job, position: int | None, status: str) -> dict[str, Any]:
    return {
        "position": position,  # 0: in hand; None: it has no place
        "id": job.id,
        "name": job.name,
        "status": status,
        "held": status == "held",
        "priority": job.priority,
        "size_bytes": job.size_bytes,
        "committed_step": job.committed_step,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    position = {None: "", 0: "now"}.get(row["position"], str(row["position"]))
    size = f"{row['size_bytes'] / 1e3:.1f} kB"
    return [position, row["id"][:12], row["name"], row["status"], row["priority"], size]


def job_id(state: State, text: str) -> str:
    """The id of the job that a person means by its name or the first digits of its id.

    Raises UserError if none or more than one fits.
    """
    from cli.text import shown_text

    if state.job(text) is not None:
        return text
    waiting = (place.job for place in state.queue.places.values())
    named, begin, shown = set(), set(), shown_text(text)
    for job in (*state.training.in_progress, *waiting, *state.outcomes.failed.values()):
        if job.name == shown:
            named.add(job.id)
        if job.id.startswith(text):
            begin.add(job.id)
    fitting = named or begin
    if len(fitting) == 1:
        return fitting.pop()
    if not fitting:
        raise UserError(f"no job in hand is called {text!r} or has an id that begins so", "see `keepstep queue`")
    raise UserError(f"{len(fitting)} jobs are called {text!r}", "use the first digits of the id: `keepstep queue`")


def _ordered(home_option: Path | None, wanted: Callable[[State], AnyCommand]) -> tuple[State, Any]:
    """Carry out an order that is one event; the state after it, and the event."""
    from cli.home.event_store import EventStore

    with closing(EventStore.open(find_home(home_option))) as store:
        (event,) = store.execute(wanted(store.state))
        return store.state, event  # of the kind that the order leads to


def _name(state: State, job: str) -> str:
    from cli.text import printable

    found = state.queue.get(job)
    return printable(found.name) if found is not None else job[:12]


def _where(state: State, event: JobMoved) -> str:
    if event.before is None:
        return f"stands at the back of priority {event.priority}"
    return f"stands before {_name(state, event.before)}, priority {event.priority}"
