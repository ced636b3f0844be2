"""The commands `plot` and `report`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.arguments.groups import StatusGroup
from cli.commands.common import HomeOption, JsonOption
from cli.commands.metrics.plot import Metric
from cli.home.paths import find_home
from events.settings import Reporter

report_app = typer.Typer(cls=StatusGroup, help="Send the metrics to TensorBoard, Trackio, W&B or MLflow.")


def plot(
    metric: Annotated[Metric, typer.Argument(help="lr: learning rate; norm: gradient norm; tokens: speed.")] = "loss",
    last: Annotated[int | None, typer.Option("--last", min=1, help="Only the newest N steps.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Draw loss, learning rate or speed in the terminal.

    The loss also shows the validation loss.
    """
    from cli.commands.metrics.plot import show_plot

    show_plot(find_home(home, reads_only=True), metric, last, json=json)


@report_app.command()
def status(home: HomeOption = None, json: JsonOption = False) -> None:
    """Show which tools get the metrics, what they have, and the last error."""
    from cli.commands.metrics.report import show_report

    show_report(find_home(home, reads_only=True), json=json)


@report_app.command()
def rebuild(
    tool: Annotated[Reporter | None, typer.Argument(help="Default: all that `report.to` names.")] = None,
    home: HomeOption = None,
) -> None:
    """Send all points again, from the journal.

    TensorBoard and Trackio get the same run; W&B and MLflow get a new one.
    """
    from cli.commands.metrics.report import rebuild

    rebuild(find_home(home), tool)


def add_to(app: typer.Typer) -> None:
    """Add these commands to `app`."""
    app.command()(plot)
    app.add_typer(report_app, name="report")
