"""`keepstep config`: show the settings, and change them safely."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.common import HomeOption, JsonOption, read_state

if TYPE_CHECKING:
    from cli.config.edit import Changed
    from cli.errors import UserError

app = typer.Typer(help="Show and change keepstep.toml.", no_args_is_help=True)

KeyArgument = Annotated[str, typer.Argument(help="Section and name, for example training.learning_rate.")]

VALUE_WIDTH_MIN = 20
"""Columns of a value in a narrow terminal."""


@app.command()
def show(home: HomeOption = None, json: JsonOption = False) -> None:
    """List every key with its value, and whether it is locked.

    A locked key cannot change before the next consolidation; the model is locked to its bytes, not to its path. On a
    terminal, long values are shortened; `keepstep config get KEY` prints one whole.
    """
    from cli.config.edit import shown, values
    from cli.config.locks import locked_keys
    from cli.config.schema import load_config
    from cli.home.paths import find_home
    from cli.output.terminal import print_json
    from cli.text import printable

    found = find_home(home, reads_only=True)
    config = load_config(found.config, storage=found.storage)
    locked = locked_keys(read_state(found), config)
    if json:
        print_json({"values": values(config), "locked": sorted(locked)})
        return
    rows = [(key, printable(shown(value))) for key, value in values(config).items()]
    width = max(len(key) for key, _ in rows)
    mark = len("locked") if locked else 0
    room = max(VALUE_WIDTH_MIN, shutil.get_terminal_size().columns - width - mark - (4 if mark else 2))
    for key, text in rows:
        lock = f"{'locked' if key in locked else '':<{mark}}  " if mark else ""
        print(f"{key:<{width}}  {lock}{shorten(text, room) if sys.stdout.isatty() else text}")


def shorten(text: str, width: int) -> str:
    """The text in at most `width` characters: a path keeps its beginning and its end.

    >>> shorten('"/home/ann/models/organisation/name"', 24), shorten("[1, 2, 3, 4, 5]", 9)
    ('"/home/…ganisation/name"', '[1, 2, 3…')
    """
    if len(text) <= width:
        return text
    if "/" not in text or text.startswith("["):
        return f"{text[: width - 1]}…"
    return f"{text[: width // 3 - 1]}…{text[-(width - width // 3) :]}"


@app.command()
def get(key: KeyArgument, home: HomeOption = None) -> None:
    """Print the value of one key, in TOML."""
    from cli.config.edit import shown, value_of
    from cli.config.schema import load_config
    from cli.home.paths import find_home

    found = find_home(home, reads_only=True)
    typer.echo(shown(value_of(load_config(found.config, storage=found.storage), key)))


@app.command(name="set", context_settings={"ignore_unknown_options": True})  # so that -1 is a value
def set_(
    changes: Annotated[
        list[str], typer.Argument(help="KEY=VALUE, once or more; or KEY VALUE. Values in TOML; a text needs no quotes.")
    ],
    home: HomeOption = None,
) -> None:
    """Change keys, all at once or none; everything else in the file stays.

    A key that decides what the unconsolidated weights mean cannot be changed. `""` unsets a text that may be missing.
    """
    from cli.config.edit import set_keys
    from cli.home.paths import find_home

    texts = parse_changes(changes)
    _print_changed(set_keys(find_home(home), texts))


@app.command()
def unset(
    keys: Annotated[list[str], typer.Argument(help="Section and name of each key.")], home: HomeOption = None
) -> None:
    """Take keys out of the file, so that their defaults apply.

    A line with a comment stays as a comment.
    """
    from cli.config.edit import unset_keys
    from cli.home.paths import find_home

    _print_changed(unset_keys(find_home(home), keys))


@app.command()
def edit(home: HomeOption = None) -> None:
    """Edit a copy with $VISUAL or $EDITOR; it is checked and then put in place.

    A wrong text is not put in place: keepstep says what is wrong and keeps the text for the next edit.
    """
    from cli.config.editor import EDITED
    from cli.config.editor import edit as edit_config
    from cli.errors import error_text
    from cli.home.paths import find_home

    def again(error: UserError) -> bool:
        typer.echo(error_text(error), err=True)
        return _has_terminal() and typer.confirm("Edit again?", default=True)

    found = find_home(home)
    if (found.root / EDITED).exists():
        typer.echo(f"continuing the edit that was not put in place: {found.root / EDITED}")
    _print_changed(edit_config(found, _run_editor, again))


@app.command()
def check(home: HomeOption = None) -> None:
    """Check that keepstep.toml is valid, can be used and fits the trained weights; exit code 1 if not.

    The questions in evaluation/ are checked too.
    """
    from cli.config.edit import check as check_config
    from cli.config.pinning import unpinned_note
    from cli.home.paths import find_home

    found = find_home(home, reads_only=True)
    typer.echo(check_config(found))
    if note := unpinned_note(found):
        typer.echo(note)


def parse_changes(arguments: Sequence[str]) -> dict[str, str]:
    """The texts by key, from `KEY=VALUE …` or `KEY VALUE`. Raises typer.BadParameter.

    >>> parse_changes(["training.epochs=2", "hooks.on_held=sh -c 'A=1'"]), parse_changes(["data.holdout", "-1"])
    ({'training.epochs': '2', 'hooks.on_held': "sh -c 'A=1'"}, {'data.holdout': '-1'})
    """
    first = arguments[0]
    if first.startswith("-"):
        raise typer.BadParameter(f"no such option: {first}")
    if len(arguments) == 3 and arguments[1] == "=":
        arguments = [first, arguments[2]]
    if "=" not in first and len(arguments) == 2:
        return {first: arguments[1]}
    if not len(arguments) % 2 and not any("=" in each for each in arguments):
        pairs = " ".join(f"{key}={text}" for key, text in zip(arguments[::2], arguments[1::2], strict=True))
        raise typer.BadParameter(f"several keys are written KEY=VALUE: keepstep config set {pairs}")
    texts: dict[str, str] = {}
    for each in arguments:
        key, sign, text = each.partition("=")
        if each.startswith("--"):
            raise typer.BadParameter(f"no such option: {each}")
        if not sign:
            raise typer.BadParameter(f"{each!r} has no value; write KEY=VALUE, for example training.epochs=2")
        if key in texts:
            raise typer.BadParameter(f"{key} is set twice")
        texts[key] = text
    return texts


def _print_changed(changed: Changed) -> None:
    for key, before, now, applies in changed.keys:
        typer.echo(f"{key}: {before} → {now}, {applies}" if before != now else f"{key} is {now}, as before")
    if not changed.keys:
        typer.echo("no setting has changed")
    for note in changed.notes:
        typer.echo(note)


def _has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _run_editor(path: Path) -> None:
    """Let the user edit a file. Raises UserError if the editor fails."""
    import click

    from cli.errors import UserError

    if not _has_terminal() and not (os.environ.get("VISUAL") or os.environ.get("EDITOR")):
        raise UserError(
            "there is no terminal for an editor", "set EDITOR to a command that needs none, or use config set"
        )
    try:
        click.edit(filename=str(path))
    except click.ClickException as error:
        raise UserError(f"the editor could not be run: {error.message}", "set VISUAL or EDITOR to one") from error
