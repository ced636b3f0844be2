"""The commands `failures`, `explain`, `logs` and `hooks test`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from cli.arguments import completion
from cli.arguments.groups import ListGroup
from cli.commands.common import HomeOption, JsonOption
from cli.errors import REFUSED
from cli.home.paths import find_home

hooks_app = typer.Typer(cls=ListGroup, help="List and test the hooks: commands and notifications on events.")


Level = Literal["debug", "info", "warning", "error", "critical"]
Source = Literal["daemon", "worker", "hook", "report"]

AllOption = Annotated[bool, typer.Option("--all", help="Show all failures, not the last ones.")]


def failures(all_of_them: AllOption = False, home: HomeOption = None, json: JsonOption = False) -> None:
    """Show what failed, what it means, and what to do."""
    from cli.diagnosis.failures import show_failures

    show_failures(find_home(home, reads_only=True), all_of_them=all_of_them, json=json)


def crashes(all_of_them: AllOption = False, home: HomeOption = None, json: JsonOption = False) -> None:
    """The old name of `failures`."""
    typer.echo("keepstep crashes is now keepstep failures", err=True)
    failures(all_of_them, home, json)


def explain(
    thing: Annotated[
        str,
        typer.Argument(
            metavar="JOB|FAILURE|STEP|CHECKPOINT|VERSION",
            help="A file or the first digits of a job's id, crash-SEQ, a step, a checkpoint, a version.",
            autocompletion=completion.anything,
        ),
    ],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show what happened to a job, step, checkpoint or version.

    It ends with what the thing is now and what happens next.
    """
    from cli.diagnosis.explain import show_explanation

    show_explanation(find_home(home, reads_only=True), thing, json=json)


def logs(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Also print new lines; Ctrl-C ends.")] = False,
    number: Annotated[int, typer.Option("-n", min=0, help="Number of lines.")] = 50,
    level: Annotated[Level, typer.Option(help="The lowest level.")] = "debug",
    attempt: Annotated[int | None, typer.Option(help="Lines of this attempt.")] = None,
    source: Annotated[Source | None, typer.Option(help="Lines of this process.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show the log of the daemon, the worker and the hooks."""
    from cli.diagnosis.logs import Filter, show_logs

    show_logs(find_home(home, reads_only=True), Filter(level, attempt, source), number=number, follow=follow, json=json)


@hooks_app.command("list")
def list_(home: HomeOption = None, json: JsonOption = False) -> None:
    """List the hooks that are set."""
    from cli.hooks.trial import show_hooks

    show_hooks(find_home(home, reads_only=True), json=json)


@hooks_app.command("test")
def run_sample(
    hook: Annotated[str | None, typer.Argument(help="Such as job_failed. Default: the first that is set.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Send a sample event of each hook.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Run the hooks and send the notifications with a sample event.

    Nothing is journaled.
    """
    from cli.hooks.trial import try_hooks

    if not try_hooks(find_home(home), hook, every=every, json=json):
        raise typer.Exit(REFUSED)


def add_to(app: typer.Typer) -> None:
    """Add these commands to `app`."""
    for command in (failures, explain, logs):
        app.command()(command)
    app.command(hidden=True)(crashes)
    app.add_typer(hooks_app, name="hooks")
