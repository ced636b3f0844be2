"""Answer questions one after another, with one process that generates text and one model in memory.

A thread waits for the process; the web server hands it questions and receives the pieces of the answers. Training has
priority: the model leaves the memory if training waits for memory, if training starts on the GPU that the model is on,
or if nobody asks for a while.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

from cli.errors import exit_code_of
from cli.generate.process import Answer, GenerationProcess, LoadedModel, ProcessEnded
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from cli.serve.errors import ApiError
from cli.serve.requests import Question
from events.generation import GenerationStarted
from events.values import Device

LOOK_EVERY_S = 2.0
"""Time between two looks at the training while a model is in memory."""

RETRY_AFTER_S_MAX = 60
"""OpenAI's client waits at most this long."""


class Beginning(NamedTuple):
    """The first piece of an answer."""

    loaded: LoadedModel
    started: GenerationStarted


Piece = Beginning | str | Answer


class Ticket:
    """A question in the queue, and the pieces of its answer. Made and read in the event loop."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.is_cancelled = False
        self.request: int | None = None
        """The request that the process answers."""
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()

    def put(self, piece: Piece | Exception) -> None:
        """Hand over a piece. Any thread may call this."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    async def next(self) -> Piece:
        """The next piece; the last one is the Answer. Raises the error of the answer."""
        piece = await self._pieces.get()
        if isinstance(piece, Exception):
            raise piece
        return piece


class Engine:
    """The queue of questions, and the thread that has them answered."""

    def __init__(
        self, home: Home, device: Device, say: Callable[[str], None], *, waiting_max: int, keep_loaded_s: float
    ) -> None:
        self._home = home
        self._device: Device = device
        self._say = say
        self._waiting_max = waiting_max
        self._keep_loaded_s = keep_loaded_s
        self._tickets: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._open = 0
        """Tickets that wait or are answered."""
        self._answer_s = 1.0
        """The time of an answer, averaged over the last ones."""
        self._process = GenerationProcess(home)
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._loaded: LoadedModel | None = None
        self._said: dict[str, str] = {}
        """What was said of each name last."""
        self._daemon_ran = False
        """True if a daemon ran when the model was loaded."""
        self._used_at = self._looked_at = 0.0
        self._is_closing = False

    def start(self) -> None:
        """Start the thread. The process starts with the first question."""
        self._thread.start()

    def close(self) -> None:
        """End the process and the thread, also in the middle of an answer."""
        self._is_closing = True
        self._tickets.put(None)
        while self._thread.is_alive():
            self._process.kill()  # it may be just starting, so more than once
            self._thread.join(0.1)

    def submit(self, question: Question) -> Ticket:
        """Queue a question. Raises ApiError if too many wait. Call `finish` when its answer is no longer read."""
        if self._open >= self._waiting_max:
            seconds = min(RETRY_AFTER_S_MAX, max(1, math.ceil(self._answer_s)))
            raise ApiError(
                429,
                f"{self._open} requests wait already, and one is answered at a time. Ask again later, or start "
                "`keepstep serve` with a larger --queue",
                code="queue_full",
                retry_after_s=seconds,
            )
        ticket = Ticket(question)
        self._open += 1
        self._tickets.put(ticket)
        return ticket

    def finish(self, ticket: Ticket) -> None:
        """Free the place of a ticket, and stop its answer if it is not complete."""
        self._open -= 1
        ticket.is_cancelled = True
        if ticket.request is not None:
            self._process.stop(ticket.request)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with self._process:
            while not self._is_closing:
                try:
                    ticket = self._tickets.get(timeout=LOOK_EVERY_S)
                except queue.Empty:
                    self._unload_if_due()
                    continue
                if ticket is None or ticket.is_cancelled:
                    continue
                try:
                    ticket.put(self._answer(ticket))
                except Exception as error:  # noqa: BLE001 - the client gets every error
                    if exit_code_of(error) is None and not isinstance(error, ApiError):
                        traceback.print_exc()
                    ticket.put(error)
                self._used_at = time.monotonic()

    def _answer(self, ticket: Ticket) -> Answer:
        question, began = ticket.question, time.monotonic()
        loaded = self._load(question.model)
        must_unload = False

        def show(text: str) -> bool:
            nonlocal must_unload
            ticket.put(text)
            must_unload = must_unload or self._training_waits_for_memory()
            return not ticket.is_cancelled and not must_unload

        def started(begun: GenerationStarted) -> None:
            ticket.put(Beginning(loaded, begun))
            ticket.request = begun.request
            if ticket.is_cancelled:
                self._process.stop(begun.request)

        answer = self._process.generate(
            question.messages,
            question.sampling,
            show,
            started,
            stop=question.stop,
            shorten=False,
            plain=question.plain,
        )
        self._answer_s += (time.monotonic() - began - self._answer_s) / 4
        if must_unload:
            self._unload("training waits for memory")
            raise ApiError(
                503,
                "the answer was stopped: training waits for memory, and the model left it. `keepstep status` shows "
                "the training",
                code="memory_short",
                retry_after_s=RETRY_AFTER_S_MAX,
            )
        return answer

    def _load(self, name: str) -> LoadedModel:
        """Load what the name means now. Raises UserError, journal.errors.JournalError, OSError."""
        alive = daemon_is_alive(self._home)
        if self._loaded is not None and alive != self._daemon_ran and self._concerns_gpu(self._loaded):
            self._process.close()  # choose the device again
        self._loaded, earlier = None, self._loaded
        was_running = self._process.is_running
        try:
            loaded = self._process.load(name, self._device)
        except ProcessEnded as error:
            if not was_running or error.out_of_memory:
                raise
            self._say(f"{error.reason}; another one is started")  # maybe it died while nobody asked
            loaded = self._process.load(name, self._device)
        if loaded.loaded.seconds == 0.0 and earlier is not None:  # in memory already: keep what was said of it
            self._loaded = loaded._replace(loaded=earlier.loaded)
            return self._loaded
        self._loaded, self._daemon_ran = loaded, alive
        where = "GPU" if loaded.loaded.device == "cuda" else "CPU"
        said = f"{name}: {loaded.model.description} on the {where}, {loaded.loaded.dtype}"
        if self._said.get(name) != said:  # programs that compare models switch often
            self._said[name] = said
            for note in filter(None, (said, loaded.model.note, *loaded.loaded.notes)):
                self._say(note)
        return loaded

    @staticmethod
    def _concerns_gpu(model: LoadedModel) -> bool:
        """True if the model is on a GPU, or would be if there were room: then the notes say why not."""
        return model.loaded.device == "cuda" or bool(model.loaded.notes)

    def _unload_if_due(self) -> None:
        if self._loaded is None:
            return
        if time.monotonic() - self._used_at >= self._keep_loaded_s:
            self._unload(f"nobody asked for {self._keep_loaded_s:.0f} s")
        elif self._training_waits_for_memory():
            self._unload("training waits for memory")
        elif self._loaded.loaded.device == "cuda" and not self._daemon_ran and daemon_is_alive(self._home):
            self._unload("training starts on the GPU")

    def _unload(self, why: str) -> None:
        """End the process: nothing else frees all of its memory."""
        self._process.close()
        self._loaded = None
        self._say(f"the model left the memory: {why}; the next request loads it")

    def _training_waits_for_memory(self) -> bool:
        """True if a daemon holds its training for lack of memory. Looks every LOOK_EVERY_S."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return False
        self._looked_at = now
        return daemon_is_alive(self._home) and load_state(self._home)[0].state.memory.shortage is not None
