"""`keepstep samples` shows answers by step; `keepstep samples now` asks for some."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.arguments import completion
from cli.arguments.groups import ShowGroup
from cli.commands.common import HomeOption, JsonOption
from cli.commands.correction.app import app as correction_app

app = typer.Typer(cls=ShowGroup, help="Show what the model answers while it trains; `now` asks for some.")


def add_to(other: typer.Typer) -> None:
    """Add the groups of commands about the model's own answers."""
    other.add_typer(app, name="samples", cls=ShowGroup)
    other.add_typer(correction_app, name="self-correction", cls=ShowGroup)


@app.command()
def show(
    step: Annotated[
        int | None,
        typer.Option(
            "--step",
            min=0,
            autocompletion=completion.sample_step,
            help="Whole answers after this global step. Default: changes by step.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            metavar="ID",
            autocompletion=completion.sample_prompt,
            help="First digits of a prompt's id: only this prompt.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every prompt and every round.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show how the answers to each prompt changed over the steps."""
    from cli.commands.samples.show import show_samples
    from cli.home.paths import find_home

    show_samples(find_home(home, reads_only=True), step, prompt, everything=everything, json=json)


@app.command()
def now(home: HomeOption = None) -> None:
    """Ask for samples at the next step, whatever they cost."""
    from cli.commands.samples.request import request_samples
    from cli.home.paths import find_home

    request_samples(find_home(home))
