"""`keepstep serve`: listen on this machine, and answer as OpenAI's API does."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from time import localtime, strftime

from cli.arguments.resolve import models
from cli.errors import UserError
from cli.generate.output import say as say_note
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.web.listening import LOOPBACK_NAMES, address_of, listen, refuse_unnamed
from cli.web.token import read_token
from events.values import Device

PORT = 8000
"""That of other programs that serve models. `keepstep monitor` begins at 8080."""

TOKEN = "serve-token"  # noqa: S105 - the name of a file
"""In `run/`. A separate token: a program that asks the model need not be able to control the daemon."""

INSTALL = "install it: `pip install 'keepstep[serve]'`"

NAMES_SHOWN = 6


def serve_models(
    home: Home,
    host: str,
    port: int | None,
    names: Sequence[str],
    device: Device,
    *,
    waiting_max: int,
    keep_loaded_s: float,
) -> None:
    """Answer until Ctrl-C. `port` None: PORT, or the next free one. `names`: further Host headers that are answered.

    Raises UserError, OSError, journal.errors.JournalError.
    """
    try:
        from cli.serve.app import make_app
        from cli.serve.engine import Engine
        from cli.web.server import serve_until_interrupted
    except ImportError as error:
        raise UserError(f"serving needs a package that is not installed: {error.name}", INSTALL) from error
    refuse_unnamed(host, names, "API", "Anyone with the key can use the models")
    named = [each.id for each in models(load_state(home)[0].state)]
    token = read_token(home, TOKEN)
    listening = listen(host, port, PORT)
    name, shown = address_of(listening)
    if port is None and shown != PORT:
        print(f"port {PORT} is in use; using {shown}")
    print("\n".join(instructions(f"http://{name}:{shown}/v1", home.run / TOKEN, named)), flush=True)
    engine = Engine(home, device, say, waiting_max=waiting_max, keep_loaded_s=keep_loaded_s)
    app = make_app(home, token, [*LOOPBACK_NAMES, name, *names], engine)
    serve_until_interrupted(app, listening)


def instructions(url: str, key: Path, models: Sequence[str]) -> list[str]:
    """Lines to paste into a shell or a program."""
    listed = ", ".join(models if len(models) <= NAMES_SHOWN else [*models[: NAMES_SHOWN - 1], "…", models[-1]])
    return [
        f"models: {listed}. Ctrl-C ends it.",
        "For programs that use OpenAI's API:",
        f"  export OPENAI_BASE_URL={url}",
        f"  export OPENAI_API_KEY=$(cat {shlex.quote(str(key))})",
        "In Python, after that:",
        "  from openai import OpenAI",
        "  OpenAI().chat.completions.create(",
        '      model="head", messages=[{"role": "user", "content": "Hello"}])',
    ]


def say(note: str) -> None:
    """Print a note with the time, on standard error."""
    say_note(f"{strftime('%H:%M:%S', localtime())}  {note}")
