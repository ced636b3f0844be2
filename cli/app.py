"""The command line. Each command is a few lines here and the work of another module; imports are made where they are
used, so that `keepstep status` loads what it shows and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.backup import app as backup_app
from cli.checkpoints import app as checkpoints_app
from cli.data import app as data_app
from cli.errors import REFUSED, UserError
from cli.journal import HomeOption, JsonOption
from cli.journal import app as journal_app
from cli.queue import app as queue_app
from cli.service import app as service_app
from cli.settings import app as settings_app
from cli.trust import TRUST_OPTION, trust
from cli.versions import app as versions_app
from cli.what_happened import add_to

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # people get sentences; a bug keeps its plain traceback
)


@app.callback()
def keepstep(
    trust_home: Annotated[
        list[Path] | None,
        typer.Option(TRUST_OPTION, help="Obey this home although another user owns it. Give it before the command."),
    ] = None,
) -> None:
    """Drop .jsonl files into an inbox; wake up to a model that learned them."""
    for home in trust_home or ():
        trust(home)


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="The new home.")] = Path(),
    model: Annotated[str, typer.Option("--model", help="A directory, or a hub id: NAME or NAME@REVISION.")] = "",
    method: Annotated[str, typer.Option("--method", help='"lora", "qlora" or "full".')] = "lora",
    group: Annotated[
        str, typer.Option("--group", help="Let this group in: its members read the home and fill its inbox.")
    ] = "",
) -> None:
    """Make a home: a commented keepstep.toml, an inbox, a journal. For you alone, unless --group lets others in."""
    from cli.init import create_home, model_warning, refuse_home
    from cli.pinning import pinned_model

    if not model:
        raise UserError("--model is missing", "name what training starts from: a directory, or a hub id")
    refuse_home(directory)
    named = pinned_model(model)
    home = create_home(directory, model=named.path, revision=named.revision, method=method, group=group)
    typer.echo(f"made {home.root}")
    if named.note:
        typer.echo(f"  model     {named.note}")
    typer.echo(f"  settings  {home.config}")
    typer.echo(f"  drop .jsonl files into  {home.inbox}  (or `keepstep add FILE`), then `keepstep run`")
    for line in model_warning(home):
        typer.echo(line, err=True)


@app.command()
def run(
    home: HomeOption = None,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End when nothing is left to do.")] = False,
    supervised: Annotated[
        bool, typer.Option("--supervise", help="Start it again when it crashes or hangs, as a service would.")
    ] = False,
) -> None:
    """Work: watch the inbox, learn what is in it, commit. Ctrl-C commits and leaves; twice leaves at once."""
    from cli.errors import refuse_too_few_files
    from cli.home import find_home
    from cli.keepalive import run_daemon
    from cli.pinning import unpinned_note
    from cli.supervise import supervise

    refuse_too_few_files()
    how, found = supervise if supervised else run_daemon, find_home(home)
    if note := unpinned_note(found):
        typer.echo(note)
    raise typer.Exit(how(found, until_idle=until_idle, write=lambda line: typer.echo(line)))


@app.command()
def add(
    files: Annotated[list[Path], typer.Argument(help="Files to learn from; they are copied.")],
    priority: Annotated[str, typer.Option(help="high, normal or low.")] = "normal",
    again: Annotated[bool, typer.Option("--again", help="Also bytes that were accepted before: once more.")] = False,
    home: HomeOption = None,
) -> None:
    """Put copies of files into the queue."""
    from cli.control import add_files

    add_files(home, files, priority, again=again)


@app.command()
def status(
    home: HomeOption = None,
    json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it; Ctrl-C ends.")] = False,
) -> None:
    """Show what keepstep does now."""
    from cli.status import show_status, watch_status

    if watch:
        watch_status(home)
    else:
        show_status(home, json=json)


@app.command()
def pause(home: HomeOption = None) -> None:
    """Commit at the next step and stop working, until `resume`; across restarts too."""
    from cli.control import pause

    pause(home)


@app.command()
def resume(home: HomeOption = None) -> None:
    """Go on after a pause, or after keepstep stopped working to wait for you."""
    from cli.control import resume

    resume(home)


@app.command()
def skip(
    job: Annotated[str | None, typer.Argument(help="Name or first digits of the id; else the current job.")] = None,
    home: HomeOption = None,
) -> None:
    """Pass a job over. What it has learned and committed stays learned."""
    from cli.control import skip

    skip(home, job)


@app.command()
def stop(
    home: HomeOption = None,
    now: Annotated[
        bool, typer.Option("--now", help="At once, without a commit: the steps since the last one are run again.")
    ] = False,
) -> None:
    """Have the daemon commit at the next step and leave; as `touch .stop` in the home."""
    from cli.control import stop
    from cli.halt import stop_now

    (stop_now if now else stop)(home)


@app.command()
def doctor(
    home: HomeOption = None,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended without losing anything.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte, load the model, and what the next step starts from.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Look for what is wrong, with a command that mends each; exit code 1 if something fails."""
    from cli.doctor import examine

    if not examine(home, fix=fix, deep=deep, json=json):
        raise typer.Exit(REFUSED)


@app.command()
def retry(
    job: Annotated[str, typer.Argument(help="Name or first digits of the id of a failed job.")],
    home: HomeOption = None,
) -> None:
    """Bring a failed job back."""
    from cli.control import retry

    retry(home, job)


@app.command()
def consolidate(
    description: Annotated[str, typer.Option("--description", "-d", help="What is in it, in your words.")] = "",
    after_current: Annotated[
        bool, typer.Option("--after-current", help="Behind the file in hand, ahead of those that wait.")
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="It is not wanted any more.")] = False,
    home: HomeOption = None,
) -> None:
    """Make a version of what was learned, as soon as nothing trains."""
    from cli.control import cancel_consolidation, request_consolidation

    if cancel:
        cancel_consolidation(home)
    else:
        request_consolidation(home, description, after_current=after_current)


@app.command()
def lineage(
    checkpoint: Annotated[
        str | None, typer.Argument(help="A version, a checkpoint's name, or a step; else the head.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check every file and setting it was made from.")] = False,
    contains: Annotated[
        str | None,
        typer.Option(
            "--contains", metavar="FILE:LINE", help="Say whether this row (or that of a SHA-256) was learned, and when."
        ),
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Train the last steps again, and compare every bit. Takes as long.")
    ] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show what went into the weights: files, rows, attempts, config, libraries, base."""
    from cli.home import find_home
    from cli.lineage import show_lineage, show_whether_it_contains

    if prove:
        from cli.rerun import prove as prove_lineage

        good = prove_lineage(find_home(home), checkpoint, json=json)
    elif contains is not None:
        good = show_whether_it_contains(find_home(home, reads_only=True), checkpoint, contains, json=json)
    else:
        good = show_lineage(find_home(home, reads_only=True), checkpoint, json=json, verify=verify)
    if not good:
        raise typer.Exit(REFUSED)


@app.command()
def checkout(
    to: Annotated[Path, typer.Option("--to", help="Their new directory, outside the home.")],
    step: Annotated[int | None, typer.Option("--step", help="A committed step.")] = None,
    seq: Annotated[int | None, typer.Option("--seq", help="A record of the journal.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Bring back the exact weights as they stood after a step, whether a checkpoint of it is kept or not."""
    from cli.home import find_home
    from cli.rerun import check_out

    check_out(find_home(home), step=step, seq=seq, to=to, json=json)


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(help="Where the demo's home is made.")] = Path("demo-home"),
) -> None:
    """Teach a real small chat model what keepstep is, before your eyes."""
    from cli.demo import run_demo

    run_demo(directory)


app.add_typer(queue_app, name="queue")
app.add_typer(checkpoints_app, name="checkpoints")
app.add_typer(data_app, name="data")
app.add_typer(versions_app, name="versions")
app.add_typer(backup_app, name="backup")
app.add_typer(journal_app, name="journal")
app.add_typer(service_app, name="service")
app.add_typer(settings_app, name="config")
add_to(app)
