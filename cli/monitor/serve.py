"""Serve the page of a home on this machine: `keepstep monitor`, and `keepstep run --monitor`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from cli.errors import UserError
from cli.home.paths import Home
from cli.home.subprocesses import command
from cli.web.listening import LOOPBACK_NAMES, address_of, listen, refuse_unnamed
from cli.web.token import read_token
from gpu.runtime.parent import die_with_parent

PORT = 8080

INSTALL = "install it: `pip install 'keepstep[monitor]'`"


def serve_page(home: Home, host: str, port: int | None, names: Sequence[str], *, with_parent: bool) -> None:
    """Serve the page of a home until Ctrl-C, and print its address.

    `port` None: PORT, or the next free one. `names`: further Host headers that are answered. `with_parent`: end with
    the process that started this one. Raises UserError, OSError.
    """
    if with_parent:
        die_with_parent()
    try:
        from cli.monitor.access import TOKEN
        from cli.monitor.app import make_app
        from cli.monitor.uploads import Uploads
        from cli.web.server import serve_until_interrupted
    except ImportError as error:
        raise UserError(f"the web page needs a package that is not installed: {error.name}", INSTALL) from error
    refuse_unnamed(host, names, "page", "Anyone with the token can control the daemon")
    listening = listen(host, port, PORT)
    name, shown = address_of(listening)
    Uploads(home).clean()
    token = read_token(home, TOKEN)
    if port is None and shown != PORT:
        typer.echo(f"port {PORT} is in use; using {shown}")
    typer.echo(f"http://{name}:{shown}/#token={token}")
    typer.echo("open this address in a browser; Ctrl-C ends the page, not the training")
    app = make_app(home, token, [*LOOPBACK_NAMES, name, *names])
    serve_until_interrupted(app, listening)


@contextmanager
def monitor_process(home: Home) -> Iterator[None]:
    """Serve the page by another process as long as this one runs: `keepstep run --monitor`.

    The page can fail or be killed; nothing else depends on it.
    """
    page = subprocess.Popen(command("cli", "monitor", "--with-parent", "--home", str(home.root)))
    try:
        yield
    finally:
        page.terminate()
        page.wait()
