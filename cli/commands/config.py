"""`keepstep config`: show the settings, and change them safely."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.commands.common import HomeOption, JsonOption, read_state

app = typer.Typer(help="Show and change keepstep.toml.", no_args_is_help=True)

KeyArgument = Annotated[str, typer.Argument(help="Section and name, for example training.learning_rate.")]


@app.command()
def show(home: HomeOption = None, json: JsonOption = False) -> None:
    """List every key with its value, and whether it is locked.

    A locked key cannot change before the next consolidation.
    """
    from cli.config.edit import locked_keys, shown, values
    from cli.config.schema import load_config
    from cli.home.paths import find_home
    from cli.output.terminal import print_json, print_listing

    found = find_home(home, reads_only=True)
    config = load_config(found.config, storage=found.storage)
    locked = locked_keys(read_state(found), config)
    if json:
        print_json({"values": values(config), "locked": sorted(locked)})
        return
    rows = [[key, shown(value), "locked" if key in locked else ""] for key, value in values(config).items()]
    print_listing(["key", "value", ""], rows)


@app.command()
def get(key: KeyArgument, home: HomeOption = None) -> None:
    """Print the value of one key, in TOML."""
    from cli.config.edit import shown, value_of
    from cli.config.schema import load_config
    from cli.home.paths import find_home

    found = find_home(home, reads_only=True)
    typer.echo(shown(value_of(load_config(found.config, storage=found.storage), key)))


@app.command(name="set")
def set_(
    key: KeyArgument,
    value: Annotated[str, typer.Argument(help="The new value in TOML; a text needs no quotes.")],
    home: HomeOption = None,
) -> None:
    """Change one key; comments stay.

    A key that decides what the unconsolidated weights mean cannot be changed.
    """
    from cli.config.edit import set_key
    from cli.home.paths import find_home

    edited = set_key(find_home(home), key, value)
    typer.echo(f"{key}: {edited.before} → {edited.now}, {edited.applies}")


@app.command()
def check(home: HomeOption = None) -> None:
    """Check that keepstep.toml is valid and fits the trained weights; exit code 1 if not."""
    from cli.config.edit import check as check_config
    from cli.config.model_files import refuse_unusable_model
    from cli.config.pinning import unpinned_note
    from cli.config.schema import load_config
    from cli.home.paths import find_home

    found = find_home(home, reads_only=True)
    said = check_config(found)
    refuse_unusable_model(load_config(found.config, storage=found.storage).job.model, found.root)
    typer.echo(said)
    if note := unpinned_note(found):
        typer.echo(note)
