"""The commands `plot` and `report`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.commands.common import HomeOption, JsonOption
from cli.commands.metrics.plot import Metric
from cli.home.paths import find_home


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


def add_to(app: typer.Typer) -> None:
    """Add these commands to `app`."""
    app.command()(plot)
