"""An encoder: `python -P -m gpu.data.encode.encoder`, with an `EncoderOrder` as JSON for its only argument.

Chunks of a file come in on standard input, what comes of each goes out on standard output, in the same order; the first
word is its own: the fingerprint of its tokenizer, or why it has none. It ends when its input ends, and at once with
whoever started it. It is a process because encoding holds Python's lock; it loads no torch, because it needs none.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import IO, TypeVar

import msgspec
from msgspec import Struct

from events.settings import JobSettings
from gpu.data.encode.rows import Encoder, tokenizer_sha256
from gpu.data.plan.chunk import Chunk, Look
from gpu.errors import ModelUnusable
from gpu.ipc.protocol import decode_request
from gpu.model.limits import UNLIMITED, ModelLimits
from gpu.model.tokenizer import block_torch_import, load_tokenizer
from gpu.runtime.parent import die_with_parent
from gpu.runtime.streams import prepare_streams

Message = TypeVar("Message")

LENGTH_BYTES = 8


class EncoderOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is encoded, and by what."""

    home: str
    settings: JobSettings
    limits: ModelLimits = UNLIMITED
    """What the model takes."""
    form: str | None
    """The format of all rows; None: there is no good one among them."""


class Ready(Struct, frozen=True, kw_only=True):
    """The first word of an encoder."""

    tokenizer_sha256: str = ""
    problem: str = ""
    """Why it cannot begin."""


def send(stream: IO[bytes], message: Struct) -> None:
    """A message behind its length. Raises OSError."""
    data = msgspec.msgpack.encode(message)
    stream.write(len(data).to_bytes(LENGTH_BYTES, "little"))
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes], kind: type[Message]) -> Message | None:
    """The next message; None at the end of the stream, wherever it ends. Raises OSError, msgspec.MsgspecError."""
    head = stream.read(LENGTH_BYTES)
    data = stream.read(int.from_bytes(head, "little")) if len(head) == LENGTH_BYTES else b""
    if len(head) < LENGTH_BYTES or len(data) < int.from_bytes(head, "little"):
        return None
    return msgspec.msgpack.decode(data, type=kind)


def serve(order: EncoderOrder, chunks: IO[bytes], answers: IO[bytes]) -> None:
    """Encode what comes until nothing more does."""
    try:
        tokenizer = load_tokenizer(order.settings.model, Path(order.home))
    except ModelUnusable as error:
        send(answers, Ready(problem=str(error)))
        return
    send(answers, Ready(tokenizer_sha256=tokenizer_sha256(tokenizer)))
    look = Look(Encoder(tokenizer, order.settings.data, order.limits), order.settings, order.form)
    while (chunk := receive(chunks, Chunk)) is not None:
        send(answers, look(chunk))


def main() -> None:
    """Carry out the order on the command line."""
    prepare_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the daemon's to understand
    die_with_parent()
    order = decode_request(sys.argv[1], EncoderOrder)
    block_torch_import(order.settings.model)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is for the log
    try:
        serve(order, sys.stdin.buffer, answers)
    except BrokenPipeError:
        os._exit(0)  # whoever asked is gone


if __name__ == "__main__":
    main()
