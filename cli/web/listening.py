"""Where a server listens: on this machine, unless the user says how other machines call it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from cli.errors import UserError

HOST = "127.0.0.1"

PORTS_TRIED = 20
"""Further ports that are tried if the default one is taken."""

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
"""Host headers of requests to a loopback address."""


def refuse_unnamed(host: str, names: Sequence[str], what: str, risk: str) -> None:
    """Raise UserError if other machines can reach `host`, and no `names` say how they call this machine; or if one of
    the names is a pattern other than `*.example.com`."""
    for name in names:
        if "*" in name.removeprefix("*."):
            raise UserError(f"--allowed-host {name} is no name", "a name, or `*.example.com` for all names below one")
    if not is_loopback(host) and not names:
        raise UserError(
            f"--host {host} lets other machines reach this {what}",
            f"name the host names that they use: --allowed-host NAME. {risk}",
        )


def address_of(listening: socket.socket) -> tuple[str, int]:
    """The host, as a URL has it, and the port of a listening socket."""
    address, port = listening.getsockname()[:2]
    return (f"[{address}]" if ":" in address else address), port


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches. Raises UserError for a name that is no address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise UserError(f"--host {host!r} is not an address", f"for example --host {HOST}") from None


def listen(host: str, port: int | None, first: int) -> socket.socket:
    """A listening socket; with `port` None the first free port from `first` on. Raises UserError."""
    address = HOST if host == "localhost" else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    ports = range(first, first + PORTS_TRIED) if port is None else (port,)
    for each in ports:
        found = _listen_at(family, address, each)
        if isinstance(found, socket.socket):
            return found
    where = f"port {ports[0]}" if len(ports) == 1 else f"each port from {ports[0]} to {ports[-1]}"
    raise UserError(f"{where} of {host} cannot be used: {found}", _other_port(family, address, ports[-1]))


def _listen_at(family: socket.AddressFamily, address: str, port: int) -> socket.socket | str:
    """A listening socket, or why there is none."""
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address, port))
        listening.listen()
    except OSError as error:
        listening.close()
        return error.strerror or str(error)
    return listening


def _other_port(family: socket.AddressFamily, address: str, taken: int) -> str:
    """The advice to use the next free port."""
    for port in range(taken + 1, min(taken + 1 + PORTS_TRIED, 1 << 16)):
        found = _listen_at(family, address, port)
        if isinstance(found, socket.socket):
            found.close()
            return f"the next free one: --port {port}"
    return "--port 0 takes any free port"
