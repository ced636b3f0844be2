"""The process that generates text: `python -P -m gpu.generate.process --home HOME`, with a socket as standard input.

It carries out the orders of `events.generation`, one at a time, and reports. It only reads the home. It ends when the
socket closes. A failure is reported as a sentence, and the process takes the next order.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from events.generation import (
    AnyGenerationOrder,
    FailureKind,
    Generate,
    GenerationFact,
    GenerationFailed,
    LoadModel,
    StopGeneration,
    TextGenerated,
)
from gpu.errors import WorkerError, is_out_of_memory
from gpu.ipc.connection import Sender, generation_order_reader, receive_messages
from gpu.ipc.worker_channel import exit_process, follow_orders
from gpu.runtime.parent import die_with_parent
from gpu.runtime.streams import STDIN, prepare_streams
from gpu.worker import ENVIRONMENT

if TYPE_CHECKING:
    from gpu.generate.generator import Generator

log = logging.getLogger(__name__)

NICENESS = 10
"""Training has priority: an answer that takes longer costs less than a step that does."""


AUTOGROUP = Path("/proc/self/autogroup")
"""The niceness of the session; the file is there if the kernel groups processes by session."""


class GenerationChannel:
    """The connection to the command. A thread reads the orders, so that an answer can be stopped."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sender = Sender(connection)
        self._orders: queue.SimpleQueue[LoadModel | Generate] = queue.SimpleQueue()
        self._stopped = 0
        """The highest request that was stopped."""
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def next_order(self) -> LoadModel | Generate:
        """Wait for the next order to carry out."""
        return self._orders.get()

    def send(self, fact: GenerationFact) -> None:
        """Send a report; end the process if the command is gone."""
        try:
            self._sender.send(fact)
        except OSError:
            exit_process(0)

    def is_stopped(self, request: int) -> bool:
        """True if this request was stopped."""
        return request <= self._stopped

    def _read(self) -> None:
        follow_orders(receive_messages(self._connection, generation_order_reader()), self._receive, "the command")

    def _receive(self, order: AnyGenerationOrder) -> None:
        if isinstance(order, StopGeneration):
            self._stopped = max(self._stopped, order.request)
        else:
            self._orders.put(order)


def serve(channel: GenerationChannel, load_generator: Callable[[], Generator]) -> None:
    """Carry out orders until the process ends."""
    generator: Generator | None = None
    while True:
        order = channel.next_order()
        try:
            if generator is None:
                generator = load_generator()
            _carry_out(order, generator, channel)
        except Exception as error:  # every failure is reported
            log.info("request %d failed", order.request, exc_info=True)
            channel.send(_failure(order, error))
            if generator is not None and isinstance(order, LoadModel):
                generator.discard()  # half a model


def _carry_out(order: LoadModel | Generate, generator: Generator, channel: GenerationChannel) -> None:
    match order:
        case LoadModel():
            if order.budget.daemon_runs:
                lower_priority()
            channel.send(generator.load(order.request, order.source, order.device, order.budget))
        case Generate():
            channel.send(
                generator.generate(
                    order.request,
                    order.messages,
                    order.sampling,
                    channel.send,
                    lambda text: channel.send(TextGenerated(request=order.request, text=text)),
                    lambda: channel.is_stopped(order.request),
                    stop=order.stop,
                    shorten=order.shorten,
                    plain=order.plain,
                )
            )


def lower_priority() -> None:
    """Give this process a lower CPU priority than the training has."""
    if (now := os.nice(0)) < NICENESS:
        os.nice(NICENESS - now)
        # Many desktops share the CPU between sessions first, and this process has its own: see sched(7), autogroup.
        with suppress(OSError):
            AUTOGROUP.write_text(f"{NICENESS}\n", encoding="ascii")


def _failure(order: LoadModel | Generate, error: Exception) -> GenerationFailed:
    """Return the report of a failure, in a sentence."""
    advice, text = "", " ".join(str(error).split()).rstrip(".")
    about: FailureKind = "other"
    if is_out_of_memory(error):
        about = "memory"
        text = f"memory ran out: {text or type(error).__name__}"
        advice = "close other programs, or shorten the dialogue; a GPU that is full: --device cpu"
    elif isinstance(error, ImportError):
        text = f"torch cannot be loaded: {text}"
        advice = "install it again: `pip install --force-reinstall torch`"
    elif isinstance(error, WorkerError):
        advice, about = str(getattr(error, "advice", "")), getattr(error, "about", about)
    elif not isinstance(error, OSError | ValueError | RuntimeError):
        text = f"{type(error).__name__}: {text}"
    problem = text or type(error).__name__
    return GenerationFailed(request=order.request, problem=problem, advice=advice, about=about)


def main() -> None:
    """Serve one command until it is gone."""
    prepare_streams()
    parser = argparse.ArgumentParser(prog="gpu.generate.process", description="Generates text for a keepstep command.")
    parser.add_argument("--home", type=Path, required=True)
    arguments = parser.parse_args()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command decides what Ctrl-C means
    logging.basicConfig(level=logging.INFO)
    os.environ.update(ENVIRONMENT)
    connection = socket.socket(fileno=os.dup(STDIN))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, STDIN)
    os.close(null)
    home = arguments.home.resolve()

    def load_generator() -> Generator:
        from gpu.generate.generator import Generator  # imports torch: seconds, in which the socket is already watched

        return Generator(home)

    serve(GenerationChannel(connection), load_generator)


if __name__ == "__main__":
    main()
