"""The socket between a command and a process of `gpu`: one JSON message a line, in both directions.

Both ends use this module: daemon and worker, and a command and the process that generates text.

A Unix socket's path may have at most 107 bytes, and a home may lie deeper. `connect` and `listen` then reach the
directory through a descriptor, whose path in `/proc` is short.
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
from msgspec import Struct

from events.generation import AnyGenerationFact, AnyGenerationOrder
from events.messages import AnyFact, AnyOrder
from events.text import carried
from gpu.errors import ProtocolViolation

Message = TypeVar("Message")

MAX_LINE_BYTES = 16 * 1024 * 1024
"""The longest real message carries a traceback of some kilobytes. More than this is not a message, and must not fill
the memory."""

RECEIVE_BYTES = 65536

MAX_SOCKET_PATH_BYTES = 100
"""`sun_path` has 108 bytes on Linux and 104 on other systems, the final NUL included."""

_encoder = msgspec.json.Encoder()


def encode(message: Struct) -> bytes:
    """Return `message` as a line of JSON."""
    return _encoder.encode(carried(message)) + b"\n"


class MessageReader(Generic[Message]):
    """Splits the received bytes into messages."""

    def __init__(self, decode: Callable[[bytes], Message]) -> None:
        self._decode = decode
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that `data` completes.

        Raises ProtocolViolation for a line that is not a message. Messages before it are returned first; the next call,
        which may be `feed(b"")`, then raises. Later calls continue after the bad line.
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


def fact_reader() -> MessageReader[AnyFact]:
    """Return a reader of the worker's facts, for the daemon."""
    decoder = msgspec.json.Decoder(AnyFact)
    return MessageReader[AnyFact](decoder.decode)


def order_reader() -> MessageReader[AnyOrder]:
    """Return a reader of the daemon's orders, for the worker."""
    decoder = msgspec.json.Decoder(AnyOrder)
    return MessageReader[AnyOrder](decoder.decode)


def generation_fact_reader() -> MessageReader[AnyGenerationFact]:
    """Return a reader of the reports of the process that generates text."""
    decoder = msgspec.json.Decoder(AnyGenerationFact)
    return MessageReader[AnyGenerationFact](decoder.decode)


def generation_order_reader() -> MessageReader[AnyGenerationOrder]:
    """Return a reader of the orders to the process that generates text."""
    decoder = msgspec.json.Decoder(AnyGenerationOrder)
    return MessageReader[AnyGenerationOrder](decoder.decode)


def receive_messages(connection: socket.socket, reader: MessageReader[Message]) -> Iterator[Message]:
    """Yield the messages of the other end until it closes the connection. Raises ProtocolViolation, OSError."""
    while data := connection.recv(RECEIVE_BYTES):
        while messages := reader.feed(data):
            yield from messages
            data = b""


class Sender:
    """Sends messages. Several threads may send at once."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.RLock()  # a signal handler may send while its own thread does

    def send(self, message: Struct) -> None:
        """Send one message. Raises OSError if the other end is gone."""
        data = encode(message)
        with self._lock:
            self._connection.sendall(data)


def connect(path: Path) -> socket.socket:
    """Connect to the socket at `path`. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as short:
            connection.connect(short)
    except OSError:
        connection.close()
        raise
    return connection


def listen(path: Path) -> socket.socket:
    """Create a socket at `path`, which must not exist, and listen. Only its owner may connect. Raises OSError."""
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
    """Yield a path to the socket that fits into a socket address."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
