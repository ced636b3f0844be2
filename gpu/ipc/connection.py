"""The socket between daemon and worker: JSON messages, one a line, in both directions. Both ends use this module.

A Unix socket's path may be 107 bytes at most, and a home may lie deeper than that: `connect` and `listen` then reach
the directory through a descriptor, whose own path is short.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from events.messages import AnyFact, AnyOrder
from events.text import carried
from gpu.errors import ProtocolViolation

Message = TypeVar("Message")

MAX_LINE_BYTES = 16 * 1024 * 1024
"""The longest real message carries a traceback, some kilobytes. Past this, the other end is not speaking to us, and
its bytes must not fill our memory."""

MAX_SOCKET_PATH_BYTES = 100
"""`sun_path` holds 108 on Linux and 104 on other systems, the closing NUL included."""

_encoder = msgspec.json.Encoder()


def encode(message: AnyFact | AnyOrder) -> bytes:
    """The line that carries `message`."""
    return _encoder.encode(carried(message)) + b"\n"


class Reader(Generic[Message]):
    """Bytes as they arrive, to whole messages."""

    def __init__(self, decode: Callable[[bytes], Message]) -> None:
        self._decode = decode
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes.

        Raises LinkGarbage for a line that is no message. Messages before a bad line are returned first: the bad one
        is then raised by the next call, which may be `feed(b"")`. After that, reading goes on behind it.
        """
        self._buffer += data
        messages: list[Message] = []
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            try:
                message = self._decode(line)
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                if not messages:
                    del self._buffer[: end + 1]
                    raise ProtocolViolation(line, str(error)) from error
                break
            del self._buffer[: end + 1]
            messages.append(message)
        else:
            if len(self._buffer) > MAX_LINE_BYTES and not messages:
                line = bytes(self._buffer[:80])
                self._buffer.clear()
                raise ProtocolViolation(line, f"no line end in {MAX_LINE_BYTES} bytes")
        return messages


def fact_reader() -> Reader[AnyFact]:
    """The daemon's end."""
    decoder = msgspec.json.Decoder(AnyFact)
    return Reader[AnyFact](decoder.decode)


def order_reader() -> Reader[AnyOrder]:
    """The worker's end."""
    decoder = msgspec.json.Decoder(AnyOrder)
    return Reader[AnyOrder](decoder.decode)


class Sender:
    """The way out: whole messages only, also when several threads send."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: AnyFact | AnyOrder) -> None:
        """Raises OSError when the other end is gone."""
        data = encode(message)
        with self._lock:
            self._connection.sendall(data)


def connect(path: Path) -> socket.socket:
    """A connection to the socket at `path`. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as short:
            connection.connect(short)
    except OSError:
        connection.close()
        raise
    return connection


def listen(path: Path) -> socket.socket:
    """A socket that listens at `path`, which must not exist yet; for its owner only. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as short:
            listener.bind(short)
        path.chmod(0o600)
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A path to the same socket that fits into its address."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
