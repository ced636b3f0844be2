"""An encoder process: `python -P -m gpu.data.processes.encoder_process`, with an `EncoderOrder` as JSON argument.

It reads chunks of a file from standard input and writes each encoded chunk to standard output, in the same order. Its
first message is `Ready`: the fingerprint of its tokenizer, or why it cannot start. It ends with its input, and at once
when its parent dies. It is a process because encoding holds Python's lock; it loads no torch.
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
from gpu.data.encode.encoder import Encoder
from gpu.data.plan.chunk import Chunk, ChunkEncoder
from gpu.data.template.fingerprint import tokenizer_sha256
from gpu.errors import ModelUnusable
from gpu.ipc.protocol import decode_request
from gpu.model.limits import UNLIMITED, ModelLimits
from gpu.model.tokenizer import block_torch_import, load_tokenizer
from gpu.runtime.parent import die_with_parent
from gpu.runtime.streams import prepare_streams

Message = TypeVar("Message")

LENGTH_BYTES = 8


class EncoderOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rows to encode, and the settings to use."""

    home: str
    settings: JobSettings
    limits: ModelLimits = UNLIMITED
    """The sizes that limit rows and tokens of the model."""
    format_name: str | None
    """The format of all rows; None if no row is good."""


class Ready(Struct, frozen=True, kw_only=True):
    """The first message of an encoder process."""

    tokenizer_sha256: str = ""
    problem: str = ""
    """The reason that it cannot start; "" if it can."""


def send(stream: IO[bytes], message: Struct) -> None:
    """Write the length of a message, then the message. Raises OSError."""
    data = msgspec.msgpack.encode(message)
    stream.write(len(data).to_bytes(LENGTH_BYTES, "little"))
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes], kind: type[Message]) -> Message | None:
    """Read the next message; None at the end of the stream, wherever it ends. Raises OSError, msgspec.MsgspecError."""
    head = stream.read(LENGTH_BYTES)
    data = stream.read(int.from_bytes(head, "little"))  # nothing after a short head: the stream has ended
    if len(head) < LENGTH_BYTES or len(data) < int.from_bytes(head, "little"):
        return None
    return msgspec.msgpack.decode(data, type=kind)


def serve(order: EncoderOrder, chunks: IO[bytes], answers: IO[bytes]) -> None:
    """Encode chunks until the input ends."""
    try:
        tokenizer = load_tokenizer(order.settings.model, Path(order.home))
    except ModelUnusable as error:
        send(answers, Ready(problem=str(error)))
        return
    send(answers, Ready(tokenizer_sha256=tokenizer_sha256(tokenizer)))
    encoder = Encoder(tokenizer, order.settings.data, order.limits)
    encode_chunk = ChunkEncoder(encoder, order.settings, order.format_name)
    while (chunk := receive(chunks, Chunk)) is not None:
        send(answers, encode_chunk(chunk))


def main() -> None:
    """Carry out the order on the command line."""
    prepare_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the daemon handles a terminal's Ctrl-C
    die_with_parent()
    order = decode_request(sys.argv[1], EncoderOrder)
    block_torch_import(order.settings.model)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # the output of libraries goes to the log
    try:
        serve(order, sys.stdin.buffer, answers)
    except BrokenPipeError:
        os._exit(0)  # the parent is gone


if __name__ == "__main__":
    main()
