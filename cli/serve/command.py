"""The command `keepstep serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.commands.chat import DeviceOption
from cli.commands.common import HomeOption


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(serve)


def serve(
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Default: 8000, or the next free one.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", help="A name that others use for this machine; needed for other hosts."),
    ] = None,
    device: DeviceOption = "auto",
    queue: Annotated[
        int, typer.Option("--queue", min=1, help="Requests that may wait; further ones are refused.")
    ] = 16,
    keep_loaded: Annotated[
        float, typer.Option("--keep-loaded", min=0.0, metavar="SECONDS", help="Keep an unused model in memory.")
    ] = 300.0,
    home: HomeOption = None,
) -> None:
    """Serve the models to programs that use OpenAI's API.

    It prints the lines to paste. It follows the training. Ctrl-C ends it.
    """
    from cli.home.paths import find_home
    from cli.serve.serve import serve_models

    found = find_home(home)
    serve_models(found, host, port, allowed_host or (), device, waiting_max=queue, keep_loaded_s=keep_loaded)
