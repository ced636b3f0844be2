"""`keepstep self-correction` shows rounds and files; `keepstep self-correction resume` starts it again."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.arguments import completion
from cli.arguments.groups import ShowGroup
from cli.commands.common import HomeOption, JsonOption

app = typer.Typer(cls=ShowGroup, help="Show how the model corrects its own answers; `resume` starts it again.")


@app.command()
def show(
    number: Annotated[
        int | None,
        typer.Option(
            "--round",
            min=1,
            autocompletion=completion.correction_round,
            help="The answers of this round, with their verdicts.",
        ),
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show the rounds, the files that followed, and why it stopped."""
    from cli.commands.correction.show import show_correction
    from cli.home.paths import find_home

    show_correction(find_home(home, reads_only=True), number, json=json)


@app.command()
def resume(home: HomeOption = None) -> None:
    """Start self-correction again after it stopped itself."""
    from cli.commands.correction.resume import resume_correction
    from cli.home.paths import find_home

    resume_correction(find_home(home))
