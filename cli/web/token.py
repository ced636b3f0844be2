"""The token of a server: a program that can read the home can use it."""

from __future__ import annotations

import secrets

from cli.home.paths import Home
from journal import durable


def read_token(home: Home, name: str) -> str:
    """The token in the file `run/NAME` of this home, made at the first use, mode 0600. Raises OSError."""
    path = home.run / name
    try:
        if token := durable.read_file(path, storage=home.storage).decode("ascii", "replace").strip():
            return token
    except FileNotFoundError:
        pass
    token = secrets.token_urlsafe(32)
    durable.write_atomically(path, f"{token}\n".encode(), mode=0o600, sync=False, storage=home.storage)
    return token
