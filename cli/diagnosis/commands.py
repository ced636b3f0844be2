"""The commands that say what happened: `crashes`, `explain`, `logs`, `hooks test`; a part of `app.py`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.commands.journal import HomeOption, JsonOption
from cli.errors import REFUSED
from cli.home.paths import find_home

hooks_app = typer.Typer(help="Commands and notifications that follow from what happens.", no_args_is_help=True)


def crashes(
    all_of_them: Annotated[bool, typer.Option("--all", help="Not only the last ones.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show what failed, the newest last: what it means, and what to do about it."""
    from cli.diagnosis.failures import show_crashes

    show_crashes(find_home(home, reads_only=True), all_of_them=all_of_them, json=json)


def explain(
    thing: Annotated[
        str,
        typer.Argument(
            metavar="JOB|CRASH|STEP|CHECKPOINT|VERSION",
            help="A file's name or the first digits of a job's id; crash-SEQ; a step; a checkpoint; a version.",
        ),
    ],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Tell the story of one thing: what happened to it, what keepstep did, what it is now, what happens next."""
    from cli.diagnosis.explain import explain as tell

    tell(find_home(home, reads_only=True), thing, json=json)


def logs(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as lines are written; Ctrl-C ends.")] = False,
    number: Annotated[int, typer.Option("-n", min=0, help="How many of the last lines to begin with.")] = 50,
    level: Annotated[str, typer.Option(help="At least: debug, info, warning, error or critical.")] = "debug",
    attempt: Annotated[int | None, typer.Option(help="What was said during this attempt.")] = None,
    source: Annotated[str | None, typer.Option(help="daemon, worker or hook.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show what daemon, worker, libraries and hooks said."""
    from cli.diagnosis.logs import Filter, show_logs

    show_logs(find_home(home, reads_only=True), Filter(level, attempt, source), number=number, follow=follow, json=json)


@hooks_app.callback()
def _hooks() -> None:
    """A group, however few commands there are in it."""


@hooks_app.command("test")
def try_them(
    hook: Annotated[str | None, typer.Argument(help="One of them, such as job_failed; else all that are set.")] = None,
    home: HomeOption = None,
) -> None:
    """Run the hooks of the config, and send the notifications, with a sample. Nothing is journaled."""
    from cli.hooks.trial import try_hooks

    if not try_hooks(find_home(home), hook):
        raise typer.Exit(REFUSED)


def add_to(app: typer.Typer) -> None:
    """Make them commands of `app`."""
    for command in (crashes, explain, logs):
        app.command()(command)
    app.add_typer(hooks_app, name="hooks")
