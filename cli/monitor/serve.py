"""Serve the page of a home on this machine: `keepstep monitor`, and `keepstep run --monitor`."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import typer

from cli.errors import UserError
from cli.home.paths import Home
from cli.home.subprocesses import command
from gpu.runtime.parent import die_with_parent

HOST = "127.0.0.1"
PORT = 8080
PORTS_TRIED = 20
"""Further ports that are tried if the default one is taken."""

INSTALL = "install it: `pip install 'keepstep[monitor]'`"


def serve_page(home: Home, host: str, port: int | None, names: Sequence[str], *, with_parent: bool) -> None:
    """Serve the page of a home until Ctrl-C, and print its address.

    `port` None: PORT, or the next free one. `names`: further Host headers that are answered. `with_parent`: end with
    the process that started this one. Raises UserError, OSError.
    """
    if with_parent:
        die_with_parent()
    try:
        import uvicorn

        from cli.monitor.access import read_token
        from cli.monitor.app import make_app
        from cli.monitor.uploads import Uploads
    except ImportError as error:
        raise UserError(f"the web page needs a package that is not installed: {error.name}", INSTALL) from error
    if not is_loopback(host) and not names:
        raise UserError(
            f"--host {host} lets other machines reach this page",
            "name the host names that browsers use: --allowed-host NAME. Anyone with the token can control the daemon",
        )
    listening = listen(host, port)
    address, shown = listening.getsockname()[0], listening.getsockname()[1]
    Uploads(home).clean()
    token = read_token(home)
    name = f"[{address}]" if ":" in address else address
    if port is None and shown != PORT:
        typer.echo(f"port {PORT} is in use; using {shown}")
    typer.echo(f"http://{name}:{shown}/#token={token}")
    typer.echo("open this address in a browser; Ctrl-C ends the page, not the training")
    app = make_app(home, token, ["127.0.0.1", "localhost", "[::1]", name, *names])
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=2))
    with listening, suppress(KeyboardInterrupt):  # Ctrl-C is the way to end it
        server.run(sockets=[listening])


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


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches. Raises UserError for a name that is no address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise UserError(f"--host {host!r} is not an address", f"for example --host {HOST}") from None


def listen(host: str, port: int | None) -> socket.socket:
    """A listening socket; with `port` None the first free port from PORT on. Raises UserError."""
    address = HOST if host == "localhost" else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    ports = range(PORT, PORT + PORTS_TRIED) if port is None else (port,)
    for each in ports:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((address, each))
            listening.listen()
        except OSError as error:
            listening.close()
            reason = error.strerror
        else:
            return listening
    where = f"port {ports[0]}" if len(ports) == 1 else f"each port from {ports[0]} to {ports[-1]}"
    raise UserError(f"{where} of {host} cannot be used: {reason}", "choose another one: --port 0 takes any free port")
