"""The server of this process."""

from __future__ import annotations

import socket
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp


def serve_until_interrupted(app: ASGIApp, listening: socket.socket) -> None:
    """Answer requests until Ctrl-C, which is the way to end it."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=2))
    with listening, suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
