"""`keepstep report` and `keepstep report rebuild`: the tools that get the metrics."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import typer

from cli.commands.common import count
from cli.config.schema import load_config
from cli.errors import REFUSED, UserError
from cli.home.identity import is_locked
from cli.home.metrics_reader import MetricsReader
from cli.home.paths import Home
from cli.home.subprocesses import command, describe_exit
from cli.output.terminal import BAD, Row, print_json, print_report, say
from cli.output.times import ago, local_time
from cli.report.progress import Progress, Sent, lock_file, read_progress, rebuild_file
from cli.text import printable
from events.settings import Reporter
from journal import durable

WAIT_S = 120.0
"""How long a rebuild by the daemon's process is waited for."""

LOOK_EVERY_S = 0.2

OFF = "no tool gets the metrics: keepstep config set 'report.to=[\"tensorboard\"]' (also trackio, wandb, mlflow)"


def show_report(home: Home, *, json: bool) -> None:
    """Print what each tool has. Raises UserError, journal.errors.JournalError."""
    names = load_config(home.config, storage=home.storage).report.to
    known = {name: read_progress(home, name) for name in dict.fromkeys(names)}
    if json:
        print_json([_as_json(name, progress) for name, progress in known.items()])
        return
    if not known:
        say(OFF)
        return
    reader = MetricsReader(home)
    reader.catch_up()
    last = (reader.metrics.newest("train", reader.metrics.seq) or (0, -1))[1]
    rows = []
    for name, progress in known.items():
        rows.append(Row(name, _state(progress, last)))
        if progress.error is not None:
            rows.append(Row("", f"failed {ago(progress.failed_at)}: {progress.error}; it is tried again", BAD))
        if progress.place:
            rows.append(Row("", progress.place))
    print_report(rows)


def _as_json(name: str, progress: Progress) -> dict[str, Any]:
    return {
        "tool": name,
        "run": progress.run,
        "place": progress.place,
        "sent": progress.sent,
        "done_at": progress.done_at,
        "error": progress.error,
        "failed_at": progress.failed_at,
    }


def _state(progress: Progress, last: int) -> str:
    if not progress.done_at:
        return "nothing was sent yet; `keepstep run` sends"
    step = progress.sent.get("train", Sent()).step
    if step < 0:
        return f"no step yet; looked {local_time(progress.done_at)}"
    rest = f"; {count(last - step, 'step')} to send" if last > step else ""
    return f"has the steps up to {step:,} of {last:,}, sent {local_time(progress.done_at)}{rest}"


def rebuild(home: Home, name: Reporter | None) -> None:
    """Send all points again, to one tool or to all of the config. Raises UserError, OSError."""
    names = (name,) if name is not None else load_config(home.config, storage=home.storage).report.to
    if not names:
        raise UserError("no tool gets the metrics", "name one: keepstep report rebuild tensorboard")
    failed = [each for each in dict.fromkeys(names) if not _rebuild(home, each)]
    if failed:
        raise typer.Exit(REFUSED)


def _rebuild(home: Home, name: str) -> bool:
    request = rebuild_file(home, name)
    durable.make_directory(request.parent, storage=home.storage)
    durable.write_atomically(request, b"", sync=False, storage=home.storage)
    if is_locked(home, lock_file(home, name)):  # the daemon's process does it at its next look
        deadline = time.monotonic() + WAIT_S
        while (home.storage.lexists(request) or not read_progress(home, name).done_at) and is_locked(
            home, lock_file(home, name)
        ):
            if time.monotonic() > deadline:
                raise UserError(f"{name} does not answer", "see `keepstep report` and `keepstep logs --source report`")
            time.sleep(LOOK_EVERY_S)
    if home.storage.lexists(request):
        ended = subprocess.run(
            command("cli.report.process", "--home", str(home.root), "--once", name),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        if ended.returncode != 0:
            problem = read_progress(home, name).error
            problem = problem or describe_exit(ended.returncode, ended.stderr.decode(errors="backslashreplace"))
            say(printable(f"{name}: {problem}"), error=True)
            return False
    progress = read_progress(home, name)
    step = progress.sent.get("train", Sent()).step
    say(f"{name}: rebuilt; it has {f'the steps up to {step:,}' if step >= 0 else 'no step'}")
    if progress.place:
        say(f"  {progress.place}")
    return True
