"""The command line: each command is declared here and implemented in a module of its topic.

A command imports its module when it runs, so that each command loads only what it needs.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.arguments import completion
from cli.arguments.groups import CONTEXT, CommandGroup, ShowGroup, StatusGroup, TailGroup
from cli.commands.backup import app as backup_app
from cli.commands.chat import add_to as add_chat_to
from cli.commands.checkpoints import app as checkpoints_app
from cli.commands.common import HomeOption, JsonOption
from cli.commands.config import app as config_app
from cli.commands.data.app import add_to as add_estimate_to
from cli.commands.data.app import app as data_app
from cli.commands.exports.app import add_to as add_exports_to
from cli.commands.homes.app import app as home_app
from cli.commands.journal import app as journal_app
from cli.commands.metrics.commands import add_to as add_metrics_to
from cli.commands.queue import app as queue_app
from cli.commands.samples.app import add_to as add_answers_to
from cli.commands.versions import app as versions_app
from cli.diagnosis.commands import add_to
from cli.errors import REFUSED
from cli.home.trust import TRUST_OPTION, trust
from cli.serve.command import add_to as add_serve_to
from cli.supervision.service import app as service_app
from events.values import Priority

PANELS = {
    "Daily use": ("init", "demo", "add", "run", "status", "monitor", "plot", "pause", "resume", "stop"),
    "Data": ("data", "estimate", "queue", "skip"),
    "Models": (
        "samples",
        "self-correction",
        "ask",
        "chat",
        "compare",
        "serve",
        "consolidate",
        "versions",
        "checkpoints",
        "checkout",
        "lineage",
        "backup",
    ),
    "Trouble": ("doctor", "failures", "explain", "retry", "logs", "journal"),
    "Service and settings": ("config", "home", "service", "hooks", "report"),
}
"""The panels of `keepstep --help`, and the commands of each, in order."""


class PanelGroup(CommandGroup):
    """Lists the commands in the panels of `PANELS`."""

    OWN: tuple[str, ...] = (*CommandGroup.OWN, TRUST_OPTION)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        order = [name for names in PANELS.values() for name in names if name in self.commands]
        self.commands = {name: self.commands[name] for name in [*order, *(self.commands.keys() - order)]}
        for panel, names in PANELS.items():
            for name in names:
                if name in self.commands:
                    self.commands[name].rich_help_panel = panel  # type: ignore[attr-defined]  # typer's own attribute

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click passes it
        """In the order of `PANELS`, then hidden commands."""
        return list(self.commands)


app = typer.Typer(
    cls=PanelGroup,
    context_settings=CONTEXT,
    help="Train a language model on the files that you drop into an inbox.",
    epilog="First: keepstep init DIRECTORY --model MODEL, then keepstep add FILE, then keepstep run.",
    pretty_exceptions_enable=False,  # `cli.errors` prints errors; a bug keeps its plain traceback
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from cli.version import VERSION

        typer.echo(f"keepstep {VERSION}")
        raise typer.Exit


@app.callback()
def keepstep(
    trust_home: Annotated[
        list[Path] | None,
        typer.Option(TRUST_OPTION, help="Obey this home although another user owns it. Give it before the command."),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Drop .jsonl files into an inbox; wake up to a model that was trained on them."""
    for home in trust_home or ():
        trust(home)


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="The directory of the new home.")] = Path(),
    model: Annotated[str, typer.Option("--model", help="Model to train: a directory, or NAME[@REVISION].")] = "",
    method: Annotated[str, typer.Option("--method", help="lora, qlora or full. Default: the first that fits.")] = "",
    group: Annotated[
        str, typer.Option("--group", help="Let the members of this group read the home and add files.")
    ] = "",
) -> None:
    """Create a home: keepstep.toml, an inbox and a journal.

    The settings fit the model and this machine. Only you can read it, unless `--group` lets others in.
    """
    from cli.commands.init import init

    init(directory, model=model, method=method, group=group)


@app.command()
def run(
    home: HomeOption = None,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="Exit when no work is left.")] = False,
    supervised: Annotated[
        bool, typer.Option("--supervise", help="Restart the daemon when it crashes or hangs, as a service does.")
    ] = False,
    page: Annotated[bool, typer.Option("--monitor", help="Also serve the web page, as `keepstep monitor`.")] = False,
) -> None:
    """Run the daemon: train on the files of the inbox.

    Ctrl-C commits a checkpoint and exits. A second Ctrl-C exits at once.
    """
    from cli.errors import refuse_too_few_files
    from cli.home.paths import find_home
    from cli.monitor.serve import monitor_process
    from cli.supervision.run import run_here

    refuse_too_few_files()
    found = find_home(home)
    with monitor_process(found) if page else nullcontext():
        code = run_here(found, until_idle=until_idle, supervised=supervised)
    raise typer.Exit(code)


@app.command()
def add(
    files: Annotated[list[Path], typer.Argument(help="Data files; keepstep trains on copies.")],
    priority: Annotated[Priority, typer.Option(help="The lane of the queue.")] = "normal",
    retrain: Annotated[bool, typer.Option("--retrain", help="Train again on files that were trained before.")] = False,
    again: Annotated[bool, typer.Option("--again", hidden=True)] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Add files to the queue."""
    from cli.commands.control import add_files

    if again:
        typer.echo("--again is now --retrain", err=True)
    add_files(home, files, priority, retrain=retrain or again, json=json)


@app.command()
def status(
    home: HomeOption = None,
    json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second; Ctrl-C ends.")] = False,
) -> None:
    """Show what the daemon does now."""
    from cli.status.report import show_status, watch_status

    if watch:
        watch_status(home)
    else:
        show_status(home, json=json)


@app.command()
def monitor(
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Default: 8080, or the next free one.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", help="A name under which browsers may reach the page; needed for other hosts."),
    ] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    home: HomeOption = None,
) -> None:
    """Show the training on a web page.

    It prints the address. Training does not depend on it. Ctrl-C ends it.
    """
    from cli.home.paths import find_home
    from cli.monitor.serve import serve_page

    serve_page(find_home(home), host, port, allowed_host or (), with_parent=with_parent)


@app.command()
def pause(home: HomeOption = None) -> None:
    """Commit a checkpoint and stop training until `resume`.

    The pause also holds after a restart.
    """
    from cli.commands.control import pause

    pause(home)


@app.command()
def resume(home: HomeOption = None) -> None:
    """Continue after a pause or a hold.

    A hold: keepstep stopped training and waits for you.
    """
    from cli.commands.control import resume

    resume(home)


@app.command()
def skip(
    job: Annotated[
        str | None,
        typer.Argument(
            help="Its file, or first digits of its id. Default: the current job.", autocompletion=completion.job
        ),
    ] = None,
    home: HomeOption = None,
) -> None:
    """End a job without finishing it.

    What was already trained and committed stays in the weights.
    """
    from cli.commands.control import skip

    skip(home, job)


@app.command()
def stop(
    home: HomeOption = None,
    now: Annotated[
        bool, typer.Option("--now", help="Stop at once without a checkpoint; later steps run again.")
    ] = False,
) -> None:
    """Stop the daemon after it commits a checkpoint.

    `touch .stop` in the home does the same.
    """
    from cli.commands.control import stop
    from cli.commands.force_stop import stop_now

    (stop_now if now else stop)(home)


@app.command()
def doctor(
    home: HomeOption = None,
    fix: Annotated[bool, typer.Option("--fix", help="Fix what can be fixed without losing anything.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte; load the model and the head.")] = False,
    json: JsonOption = False,
) -> None:
    """Check the home and this machine, and say how to fix problems.

    Exit code 1 if a check fails.
    """
    from cli.doctor.report import run_doctor

    if not run_doctor(home, fix=fix, deep=deep, json=json):
        raise typer.Exit(REFUSED)


@app.command()
def retry(
    job: Annotated[
        str,
        typer.Argument(
            help="A failed job: its file, or first digits of its id.",
            autocompletion=completion.job,
        ),
    ],
    home: HomeOption = None,
) -> None:
    """Put a failed job back into the queue."""
    from cli.commands.control import retry

    retry(home, job)


@app.command()
def consolidate(
    description: Annotated[str, typer.Option("--description", "-d", help="A note that is kept with the version.")] = "",
    after_current: Annotated[
        bool, typer.Option("--after-current", help="After the current file, before the queued ones.")
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Withdraw the request.")] = False,
    home: HomeOption = None,
) -> None:
    """Merge what was trained into a new version, when no file waits."""
    from cli.commands.control import cancel_consolidation, request_consolidation

    if cancel:
        cancel_consolidation(home)
    else:
        request_consolidation(home, description, after_current=after_current)


@app.command()
def lineage(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            help="A version, a checkpoint or a step. Default: the head.",
            autocompletion=completion.weights,
        ),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check all files and settings of the weights.")] = False,
    contains: Annotated[
        str | None,
        typer.Option(
            "--contains",
            metavar="FILE:LINE",
            help="Print the steps that trained this row, or the row with this SHA-256.",
        ),
    ] = None,
    prove: Annotated[bool, typer.Option("--prove", help="Train the last steps again and compare every bit.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show what the weights were trained on: files, rows, settings."""
    from cli.commands.lineage import show_contains, show_lineage
    from cli.home.paths import find_home

    if prove:
        from cli.commands.rerun import prove as prove_lineage

        passed = prove_lineage(find_home(home), checkpoint, json=json)
    elif contains is not None:
        passed = show_contains(find_home(home, reads_only=True), checkpoint, contains, json=json)
    else:
        passed = show_lineage(find_home(home, reads_only=True), checkpoint, json=json, verify=verify)
    if not passed:
        raise typer.Exit(REFUSED)


@app.command()
def checkout(
    to: Annotated[Path, typer.Option("--to", help="The new directory, outside the home.")],
    step: Annotated[int | None, typer.Option("--step", help="A committed step.")] = None,
    seq: Annotated[int | None, typer.Option("--seq", help="A record of the journal, by its number.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Rebuild the exact weights of any committed step.

    No checkpoint of the step is needed: keepstep trains the missing steps again.
    """
    from cli.commands.rerun import check_out
    from cli.home.paths import find_home

    check_out(find_home(home), step=step, seq=seq, to=to, json=json)


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(help="The directory of the demo's home.")] = Path("demo-home"),
) -> None:
    """Train a small chat model on what keepstep is, in minutes."""
    from cli.commands.demo import run_demo

    run_demo(directory)


app.add_typer(queue_app, name="queue")
app.add_typer(checkpoints_app, name="checkpoints")
app.add_typer(data_app, name="data", cls=CommandGroup)
add_estimate_to(app)
app.add_typer(versions_app, name="versions")
app.add_typer(backup_app, name="backup")
add_answers_to(app)
app.add_typer(journal_app, name="journal", cls=TailGroup)
app.add_typer(service_app, name="service", cls=StatusGroup)
app.add_typer(home_app, name="home")
app.add_typer(config_app, name="config", cls=ShowGroup)
add_to(app)
add_chat_to(app)
add_metrics_to(app)
add_exports_to(versions_app, checkpoints_app)
add_serve_to(app)
