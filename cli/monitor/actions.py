"""Actions of the page: commands of the command line, journaled in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Final

from msgspec import Struct

from cli.arguments.resolve import find_job_id
from cli.commands.models.head import backup_command, move_command, move_head, preview_move
from cli.commands.versions import resolve_target
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.inbox.accept import remove_job, skip_job
from core import commands
from core.state import State
from events.values import Priority


class Request(Struct, forbid_unknown_fields=True):
    """The body of a POST to `/api/actions/NAME`."""

    job: str = ""
    """For actions on a job: its name, or an id or the beginning of one."""
    priority: Priority | None = None
    """For `move`: the lane; None: the lane that it is in."""
    first: bool = False
    """For `move`: to the front of the lane, instead of to its end."""
    target: str = ""
    """For `restore`: a version, `origin`, a detached checkpoint or a backup."""
    preview: bool = False
    """For `restore` and `rollback`: say what would happen, and change nothing."""


Decide = Callable[[State, Request], commands.AnyCommand]

JOB_COMMANDS: Final[Mapping[str, Decide]] = {
    "hold": lambda state, asked: commands.HoldJob(job=find_job_id(state, asked.job)),
    "release": lambda state, asked: commands.ReleaseJob(job=find_job_id(state, asked.job)),
    "retry": lambda state, asked: commands.Retry(job=find_job_id(state, asked.job)),
    "move": lambda state, asked: commands.MoveJob(
        job=find_job_id(state, asked.job), priority=asked.priority, first=asked.first, before=None
    ),
}

HEAD_ACTIONS: Final = ("restore", "rollback")

ACTIONS: Final = (*JOB_COMMANDS, "remove", "skip", "sample", "pause", "resume", "consolidate", "stop", *HEAD_ACTIONS)


def act(home: Home, action: str, asked: Request) -> str:
    """Do `action`. Returns what happened, as a sentence.

    Raises UserError, core.errors.Refused, journal.errors.JournalError, OSError.
    """
    if (action in JOB_COMMANDS or action == "remove") and not asked.job:
        raise UserError(f"{action} needs a job", 'send {"job": "NAME"}')
    if action in HEAD_ACTIONS:
        return _move_head(home, action, asked)
    with closing(EventStore.open(home)) as store:
        match action:
            case "remove":
                job, _ = remove_job(store, find_job_id(store.state, asked.job))
                return f"{job.name} is removed from the queue"
            case "skip":
                skip_job(store, find_job_id(store.state, asked.job) if asked.job else None)
                return "the job ends; what it trained and committed stays"
            case "sample":
                store.execute(commands.RequestSamples(alive=daemon_is_alive(home)))
                return "samples follow the next step"
            case "pause":
                store.execute(commands.Pause())
                return "the daemon pauses at the next step"
            case "resume":
                store.execute(commands.Resume())
                return "resumed"
            case "consolidate":
                store.execute(commands.RequestConsolidation(description="", after_current=False))
                return "a consolidation starts when no file waits"
            case "stop":
                store.execute(commands.Stop(alive=daemon_is_alive(home)))
                return "the daemon commits a checkpoint and stops"
            case _:
                store.execute(JOB_COMMANDS[action](store.state, asked))
                return f"{action}: done"


def _move_head(home: Home, action: str, asked: Request) -> str:
    if action == "restore" and not asked.target:
        raise UserError("restore needs a target", 'send {"target": "v001"}; `keepstep versions list --all` lists them')
    command = commands.RollBack() if action == "rollback" else _restore_command(home, asked.target)
    return " ".join(preview_move(home, command)) if asked.preview else move_head(home, command).text


def _restore_command(home: Home, target: str) -> commands.MoveHead:
    state = load_state(home)[0].state
    if state.retention.backup(target) is not None:
        return backup_command(home, target)
    return move_command(resolve_target(state, target))
