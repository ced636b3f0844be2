"""`keepstep hooks test`: run the hooks of the config with a sample event."""

from __future__ import annotations

from typing import get_args

from cli.config.schema import load_config
from cli.errors import UserError
from cli.home.paths import Home
from cli.hooks.dispatch import tasks_for
from cli.hooks.runner import run
from cli.hooks.triggers import TITLES, Summary
from cli.machine.clock import timestamp
from cli.text import printable_lines
from events.settings import HookTrigger


def try_hooks(home: Home, hook: str | None) -> bool:
    """Run the hooks and print their output. Returns True if all succeed. Raises UserError if none is set."""
    settings = load_config(home.config, storage=home.storage).hooks
    names: tuple[HookTrigger, ...] = get_args(HookTrigger)
    chosen = [name for name in names if hook in (None, name, f"on_{name}")]
    if not chosen:
        raise UserError(f"there is no hook {hook!r}", f"choose one of {', '.join(names)}")
    tasks = [task for name in chosen for task in tasks_for(home, settings, sample_summary(home, name))]
    if not tasks:
        what = "no hook is" if hook is None else f"neither on_{chosen[0]} nor a notification of it is"
        raise UserError(f"{what} set in {home.config}", "set one in [hooks]; docs/guides/get-notified.md has examples")
    good = True
    for task in tasks:
        outcome = run(task)
        good = good and outcome.problem is None
        print(f"{task.name}: {outcome.problem or 'done'} ({outcome.seconds:.1f} s)")
        for line in printable_lines(outcome.output).splitlines():
            print(f"    {line}")
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
