"""`keepstep queue` lists the waiting jobs; its commands reorder, hold and remove them.

None of them touches a job that has started: `keepstep skip` ends that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.arguments import completion
from cli.arguments.groups import ListGroup
from cli.arguments.resolve import find_job_id
from cli.commands.common import HomeOption, JsonOption, format_size, read_state
from cli.home.paths import find_home
from cli.output.terminal import print_json, print_listing, say
from events.values import Priority

if TYPE_CHECKING:
    from core.commands import AnyCommand
    from core.job import Job
    from core.state import State
    from events.kinds import JobMoved

ROWS_SHOWN = 50
"""Enough to look through. More are shown with --all."""

app = typer.Typer(cls=ListGroup, help="List, reorder, hold and remove waiting jobs.")

JobArgument = Annotated[
    str,
    typer.Argument(
        help="A waiting job: its file, its number in the queue, or first digits of its id.",
        autocompletion=completion.job,
    ),
]


@app.command("list")
def list_(
    home: HomeOption = None,
    json: JsonOption = False,
    everything: Annotated[bool, typer.Option("--all", help=f"List all jobs, not the first {ROWS_SHOWN}.")] = False,
) -> None:
    """List the job in progress, the waiting jobs and the failed ones."""
    show_queue(home, json=json, everything=everything)


@app.command()
def move(
    job: JobArgument,
    priority: Annotated[Priority | None, typer.Option(help="To the end of this lane.")] = None,
    first: Annotated[bool, typer.Option("--first", help="To the front of its lane, or of --priority's.")] = False,
    before: Annotated[
        str | None,
        typer.Option(metavar="JOB", help="Directly before this job, in its lane.", autocompletion=completion.job),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Move a waiting job to another place."""
    from core.commands import MoveJob

    if first and before is not None:
        raise typer.BadParameter("--first and --before exclude each other; choose one")
    if priority is None and not first and before is None:
        raise typer.BadParameter("name the new place: --priority, --first or --before")

    def move_job(state: State) -> AnyCommand:
        other = find_job_id(state, before) if before is not None else None
        return MoveJob(job=find_job_id(state, job), priority=priority, first=first, before=other)

    state, event = _execute_one(home, move_job)
    say(f"{_name(state, event.job)} {_place_text(state, event)}")


@app.command()
def hold(job: JobArgument, home: HomeOption = None) -> None:
    """Hold a waiting job back until it is released; it keeps its place."""
    from core.commands import HoldJob

    state, event = _execute_one(home, lambda state: HoldJob(job=find_job_id(state, job)))
    name = _name(state, event.job)
    say(f"{name} is held; to train it: `keepstep queue release {event.job[:12]}`")


@app.command()
def release(job: JobArgument, home: HomeOption = None) -> None:
    """Release a held job."""
    from core.commands import ReleaseJob

    state, event = _execute_one(home, lambda state: ReleaseJob(job=find_job_id(state, job)))
    say(f"{_name(state, event.job)} is released and waits for its turn")


@app.command()
def remove(job: JobArgument, home: HomeOption = None) -> None:
    """Remove a waiting job that was not trained.

    Its file moves to rejected/. To train it later, put it into the inbox again.
    """
    from cli.home.event_store import EventStore
    from cli.inbox.accept import remove_job
    from cli.text import printable

    found = find_home(home)
    with closing(EventStore.open(found)) as store:
        removed, path = remove_job(store, find_job_id(store.state, job))
    name = printable(removed.name)
    if removed.keeps_data:
        say(f"{name} is out of the queue; its file stays in data/, for it was trained before")
    elif path is None:
        say(f"{name} is out of the queue; its file moves to rejected/ when the disk has room")
    else:
        say(f"{name} is out of the queue; its file is {printable(found.relative(path))}")


def show_queue(home_option: Path | None, *, json: bool, everything: bool = False) -> None:
    """`keepstep queue`."""
    from cli.home.identity import daemon_is_alive

    home = find_home(home_option, reads_only=True)
    state = read_state(home)
    rows = queue_rows(state, alive=daemon_is_alive(home))
    if json:
        print_json(list(rows))
        return
    shown = list(rows if everything else islice(rows, ROWS_SHOWN))
    if not shown:
        say("no file waits")
        return
    print_listing(["", "id", "name", "status", "priority", "size"], [_cells(row) for row in shown])
    more = len(state.training.in_progress) + len(state.queue) + len(state.outcomes.failed) - len(shown)
    if more:
        say(f"and {more} more; `keepstep queue --all` lists them")


def queue_rows(state: State, *, alive: bool) -> Iterator[dict[str, Any]]:
    """All unfinished and failed jobs: those that started, then the waiting ones in order, then the failed ones."""
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
        "position": position,  # 0: it has started; None: it has failed
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
    return [position, row["id"][:12], row["name"], row["status"], row["priority"], format_size(row["size_bytes"])]


def _execute_one(home_option: Path | None, command: Callable[[State], AnyCommand]) -> tuple[State, Any]:
    """Execute a command that leads to one event. Returns the state after it, and the event."""
    from cli.home.event_store import EventStore

    with closing(EventStore.open(find_home(home_option))) as store:
        (event,) = store.execute(command(store.state))
        return store.state, event


def _name(state: State, job: str) -> str:
    from cli.text import printable

    found = state.queue.get(job)
    return printable(found.name) if found is not None else job[:12]


def _place_text(state: State, event: JobMoved) -> str:
    if event.before is None:
        return f"is now last of priority {event.priority}"
    return f"is now before {_name(state, event.before)}, priority {event.priority}"
