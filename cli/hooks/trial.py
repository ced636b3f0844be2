"""`keepstep hooks`: list the hooks of the config, and run them with a sample event."""

from __future__ import annotations

from typing import get_args

import typer

from cli.config.schema import load_config
from cli.errors import UserError
from cli.home.paths import Home
from cli.hooks.dispatch import tasks_for
from cli.hooks.runner import run
from cli.hooks.triggers import TITLES, Summary
from cli.machine.clock import timestamp
from cli.output.terminal import print_json, print_listing, say
from cli.text import printable_lines
from events.hooks import HookTrigger

TRIGGERS: tuple[HookTrigger, ...] = get_args(HookTrigger)

HELP = "set one in [hooks]; docs/guides/get-notified.md has examples"


def show_hooks(home: Home, *, json: bool) -> None:
    """`keepstep hooks list`. The targets of notifications are shown by kind only: they contain passwords."""
    settings = load_config(home.config, storage=home.storage).hooks
    targets = [url.partition(":")[0] for url in settings.notify]
    rows = [
        {
            "hook": name,
            "when": TITLES[name],
            "command": getattr(settings, f"on_{name}"),
            "notifies": targets if name in settings.notify_on else [],
        }
        for name in TRIGGERS
    ]
    rows = [row for row in rows if row["command"] or row["notifies"]]
    if json:
        print_json(rows)
    elif not rows:
        say(f"no hook is set\n  → {HELP}")
    else:
        cells = [[row["hook"], row["when"], row["command"], ", ".join(row["notifies"])] for row in rows]
        print_listing(["hook", "runs when", "command", "notifies"], cells)


def try_hooks(home: Home, hook: str | None, *, every: bool = False, json: bool = False) -> bool:
    """Run the hooks of one sample event, or with `every` one of each trigger, and print their output.

    Returns True if all succeed. Raises UserError if none is set, typer.BadParameter for an unknown hook.
    """
    settings = load_config(home.config, storage=home.storage).hooks
    chosen = [name for name in TRIGGERS if hook in (None, name, f"on_{name}")]
    if not chosen:
        raise typer.BadParameter(f"{hook!r} is not one of {', '.join(TRIGGERS)}", param_hint="HOOK")
    by_trigger = [tasks for name in chosen if (tasks := tasks_for(home, settings, sample_summary(home, name)))]
    if not by_trigger:
        what = "no hook is" if hook is None else f"neither on_{chosen[0]} nor a notification of it is"
        raise UserError(f"{what} set in {home.config}", HELP)
    good, outcomes = True, []
    for task in (task for tasks in (by_trigger if every else by_trigger[:1]) for task in tasks):
        outcome = run(task)
        good = good and outcome.problem is None
        outcomes.append({"task": task.name, **outcome._asdict()})
        if json:
            continue
        say(f"{task.name}: {outcome.problem or 'done'} ({outcome.seconds:.1f} s)", flush=True)
        for line in printable_lines(outcome.output).splitlines():
            say(f"    {line}")
    if json:
        print_json({"good": good, "outcomes": outcomes})
    elif not every and (others := len(by_trigger) - 1):
        events = "one other event" if others == 1 else f"{others} other events"
        say(f"hooks are set for {events} too; to try all: keepstep hooks test --all")
    return good


def sample_summary(home: Home, trigger: HookTrigger) -> Summary:
    """The summary of a test event: `seq` 0, which no record has."""
    return Summary(
        hook=trigger,
        title=f"keepstep: {TITLES[trigger]}",
        message=f"this is a test of on_{trigger}; nothing happened",
        seq=0,
        at=timestamp(home.clock.now()),
        kind="test",
        home=str(home.root),
    )
