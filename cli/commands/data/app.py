"""`keepstep data`: check data files as the daemon does, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.commands.common import HomeOption, JsonOption
from cli.errors import REFUSED, UserError
from cli.home.paths import Home, find_home
from cli.text import shown_text

app = typer.Typer(no_args_is_help=True)

PREVIEW_MAX = 1_000
"""Rows of a preview; nobody reads more."""


@app.callback()
def data() -> None:
    """Check data files before training, and show the reports."""


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Data files; they are not changed.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Model whose tokenizer and template to use. Default: the home's.")
    ] = None,
    preview: Annotated[
        int | None,
        typer.Option("--preview", min=1, max=PREVIEW_MAX, metavar="N", help="Show N rows as the model sees them."),
    ] = None,
    row: Annotated[
        int | None, typer.Option("--row", min=1, metavar="N", help="Show row N as the model sees it, and nothing else.")
    ] = None,
    auto_adjust: Annotated[
        bool, typer.Option("--auto-adjust", help="Write the advised settings to keepstep.toml; asks first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to the changes of --auto-adjust.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Check data files with the settings of the home, as the daemon does.

    Says what is wrong, how long the rows are, and what training costs.
    Exit code 1 if the daemon would reject one of the files.
    """
    from cli.commands.data.check import Wanted, check_files

    if row is not None and (preview or auto_adjust):
        raise typer.BadParameter("--row shows one row and makes no report; leave out --preview and --auto-adjust")
    if yes and not auto_adjust:
        raise typer.BadParameter("--yes agrees to the changes of --auto-adjust; add --auto-adjust, or leave out --yes")
    if not check_files(files, Wanted(model, home, preview or 0, row, auto_adjust, yes, json)):
        raise typer.Exit(REFUSED)


@app.command()
def report(
    file: Annotated[str, typer.Argument(help="Name of the file, or first digits of its job's id.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show the report of a file that the daemon prepared."""
    show_report(find_home(home, reads_only=True), file, json=json)


def add_to(root: typer.Typer) -> None:
    """Add `keepstep estimate`."""
    root.command("estimate")(estimate)


def estimate(
    files: Annotated[list[Path], typer.Argument(help="Data files; they are not changed.")],
    model: Annotated[str | None, typer.Option("--model", help="The model to train. Default: that of the home.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Estimate steps, time and memory of training on files, before anything is trained.

    The memory is named by part, for this device. Exit code 1 if the daemon would reject one of the files.
    """
    from cli.commands.data.estimate import show_estimates

    if not show_estimates(files, model, home, json=json):
        raise typer.Exit(REFUSED)


def show_report(home: Home, wanted: str, *, json: bool) -> None:
    """`keepstep data report`. Raises UserError if there is none."""
    import msgspec

    from cli.commands.data.report_text import finding_rows, report_json, report_rows
    from cli.output.terminal import print_json, print_report
    from gpu.data.examine.report import Report
    from journal.durable import read_file
    from projections.checksum import UNREADABLE

    found: list[Report] = []
    for path in sorted(home.reports.glob("*.json")):
        try:
            one = msgspec.json.decode(read_file(path), type=Report)
        except UNREADABLE:
            continue  # written by an older keepstep; preparing the file again rewrites it
        if shown_text(wanted) == one.file or (len(wanted) >= 6 and one.sha256.startswith(wanted)):
            found.append(one)
    if not found:
        raise UserError(f"there is no report on {wanted!r}", "to check a file: keepstep data check FILE")
    if json:
        print_json([report_json(each) for each in found])
    else:
        for each in found:
            print_report([*report_rows(each), *(row for finding in each.findings for row in finding_rows(finding))])
            print()
