"""The process that generates text, as its command sees it: load a model, stream an answer, stop it.

One process serves one command, and loads a model once. Every failure is a UserError with a sentence.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple

from cli.config.schema import load_config
from cli.errors import UserError
from cli.generate.memory import measure_budget
from cli.generate.models import NamedModel, find_model
from cli.home.paths import Home
from cli.home.subprocesses import command, describe_exit
from cli.machine.oom_kills import count_oom_kills
from events.generation import (
    AnyGenerationFact,
    AnyGenerationOrder,
    ChatMessage,
    FailureKind,
    Finish,
    Generate,
    GenerationFailed,
    GenerationFinished,
    GenerationStarted,
    LoadModel,
    ModelLoaded,
    Sampling,
    SamplingInUse,
    StopGeneration,
    TextGenerated,
)
from events.values import Device
from gpu.errors import ProtocolViolation
from gpu.ipc.connection import Sender, generation_fact_reader
from gpu.worker import ENVIRONMENT

RECEIVE_BYTES = 1 << 16
CHARACTERS_MAX = 1 << 22
"""Longest dialogue: more than any context holds, and less than a message may carry."""

END_WAIT_S = 5.0
"""Time for the process to end when its socket closes; it does so at once."""


class LeaveRequested(KeyboardInterrupt):
    """A Ctrl-C that ends the program: the process is in the middle of something."""


class GenerationRefused(UserError):
    """The process cannot load a model or answer. Data: `about`."""

    def __init__(self, reason: str, advice: str, about: FailureKind) -> None:
        self.about = about
        super().__init__(reason, advice)


class ProcessEnded(UserError):
    """The process died. The next load starts another one. Data: `out_of_memory`."""

    def __init__(self, reason: str, advice: str, *, out_of_memory: bool = False) -> None:
        self.out_of_memory = out_of_memory
        super().__init__(reason, advice)


class LoadedModel(NamedTuple):
    """A model that is in the memory of the process."""

    model: NamedModel
    loaded: ModelLoaded


class Answer(NamedTuple):
    """An answer, complete or stopped."""

    text: str
    finish: Finish
    dropped: tuple[int, ...]
    """Indexes of the messages that did not fit into the context."""
    prompt_tokens: int
    tokens: int
    sampling: SamplingInUse
    seconds: float


class GenerationProcess:
    """A process that generates text for one home. A context manager: the process ends with the block."""

    def __init__(self, home: Home, module: str = "gpu.generate.process") -> None:
        self.home = home
        self._module = module
        self._is_started = False
        self._request = 0
        self.is_running = False
        """False before the first load, and once the process is found to have ended. `load` starts it."""

    def _start(self) -> None:
        self._reader = generation_fact_reader()
        self._facts: list[AnyGenerationFact] = []
        self._memory_kills = count_oom_kills()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it is open as long as the process runs
        self._connection, theirs = socket.socketpair()
        self._sender = Sender(self._connection)
        with theirs:
            self._process = subprocess.Popen(
                command(self._module, "--home", str(self.home.root)),
                stdin=theirs.fileno(),
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, **ENVIRONMENT, "TQDM_DISABLE": "1"},
                start_new_session=True,  # Ctrl-C stops the answer, not the process
            )
        self._is_started = self.is_running = True

    def __enter__(self) -> GenerationProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if not self._is_started:
            return
        self._is_started = self.is_running = False
        self._connection.close()
        try:
            self._process.wait(END_WAIT_S)
        except subprocess.TimeoutExpired:  # in the middle of a load
            self._process.kill()
            self._process.wait()
        self._log.close()

    def stop(self, request: int) -> None:
        """End the answer to a request at its next token. Any thread may call this."""
        self._send(StopGeneration(request=request))

    def kill(self) -> None:
        """End the process at once, also in the middle of a load; what waits for it gets a UserError. Any thread may
        call this."""
        if self._is_started:
            self._process.kill()

    def load(self, name: str, device: Device = "auto") -> LoadedModel:
        """Load the model of this name, unless it is in memory. Raises UserError, journal.errors.JournalError.

        A daemon may delete a checkpoint while it is read. If the name then means another one, that is loaded.
        """
        model = find_model(self.home, name)
        if not self.is_running:
            self.close()
            self._start()
        while True:
            try:
                return LoadedModel(model, self._load(model, device))
            except UserError:
                now = find_model(self.home, name)
                if now.source == model.source or not self.is_running:
                    raise
                model = now

    def _load(self, model: NamedModel, device: Device) -> ModelLoaded:
        budget = measure_budget(self.home, load_config(self.home.config, storage=self.home.storage), device)
        try:
            self._send(LoadModel(request=self._next(), source=model.source, device=device, budget=budget))
            fact = self._receive()
        except KeyboardInterrupt:
            raise LeaveRequested from None
        match fact:
            case ModelLoaded():
                return fact
            case GenerationFailed():
                what = f"{model.name} ({model.description}) cannot be loaded: {fact.problem}"
                raise GenerationRefused(what, fact.advice, fact.about)
            case _:
                raise self._broken(f"it answered with {type(fact).__name__}")

    def generate(
        self,
        messages: Sequence[ChatMessage],
        sampling: Sampling,
        show: Callable[[str], bool],
        started: Callable[[GenerationStarted], None] = lambda _: None,
        *,
        stop: Sequence[str] = (),
        shorten: bool = True,
        plain: bool = False,
    ) -> Answer:
        """Answer a dialogue. `show` receives each piece of text; the answer is stopped when it returns False.

        `stop`, `shorten`, `plain`: see `events.generation.Generate`.
        Ctrl-C stops the answer too, and a second one raises LeaveRequested. Raises UserError.
        """
        refuse_unsendable(messages)
        request = self._next()
        begun: GenerationStarted | None = None
        text: list[str] = []
        with _first_interrupt(lambda: self._send(StopGeneration(request=request))):
            self._send(
                Generate(
                    request=request,
                    messages=tuple(messages),
                    sampling=sampling,
                    stop=tuple(stop),
                    shorten=shorten,
                    plain=plain,
                )
            )
            while True:
                fact = self._receive()
                match fact:
                    case GenerationStarted():
                        begun = fact
                        started(fact)
                    case TextGenerated():
                        text.append(fact.text)
                        if not show(fact.text):
                            self._send(StopGeneration(request=request))
                    case GenerationFinished() if begun is not None:
                        return Answer(
                            text="".join(text),
                            finish=fact.finish,
                            dropped=begun.dropped,
                            prompt_tokens=begun.prompt_tokens,
                            tokens=fact.tokens,
                            sampling=begun.sampling,
                            seconds=fact.seconds,
                        )
                    case GenerationFailed():
                        raise GenerationRefused(f"the model cannot answer: {fact.problem}", fact.advice, fact.about)
                    case _:
                        raise self._broken(f"it answered with {type(fact).__name__}")

    def _next(self) -> int:
        self._request += 1
        return self._request

    def _send(self, order: AnyGenerationOrder) -> None:
        with contextlib.suppress(OSError):  # `_receive` notices a dead process
            self._sender.send(order)

    def _receive(self) -> AnyGenerationFact:
        """The next report of the current request; late reports of earlier ones are dropped."""
        while True:
            while self._facts:
                fact = self._facts.pop(0)
                if fact.request == self._request:
                    return fact
            try:
                data = self._connection.recv(RECEIVE_BYTES)
                if not data:
                    raise self._ended()
                while facts := self._reader.feed(data):
                    self._facts += facts
                    data = b""
            except ConnectionError as error:
                raise self._ended() from error
            except ProtocolViolation as error:
                raise self._broken(str(error)) from error

    def _ended(self) -> ProcessEnded:
        """Why the process ended, as an error for the user."""
        self.is_running = False
        code = self._process.wait()
        self._log.seek(0)
        reason = describe_exit(code, self._log.read().decode(errors="backslashreplace"))
        if code == -signal.SIGKILL and count_oom_kills() > self._memory_kills:
            return ProcessEnded(
                "the process that loads the model was killed: the machine ran out of memory",
                "close other programs; while training runs, `keepstep stop` frees its memory",
                out_of_memory=True,
            )
        advice = "maybe memory ran out: `free -h` shows how much there is" if code < 0 else "try again"
        return ProcessEnded(f"the process that generates text ended: {reason}", advice)

    def _broken(self, reason: str) -> UserError:
        return UserError(
            f"the process that generates text cannot be understood: {reason}",
            "keepstep may have been updated while it ran: try again",
        )


def refuse_unsendable(messages: Sequence[ChatMessage]) -> None:
    """Raise UserError if the dialogue is too long for any model, or holds bytes that are not text."""
    size = sum(len(message.content) for message in messages)
    if size > CHARACTERS_MAX:
        raise UserError(f"the dialogue has {size:,} characters, more than any model takes", "shorten it")
    try:
        "".join(message.content for message in messages).encode()
    except UnicodeEncodeError as error:  # Python carries such bytes of arguments and input as lone surrogates
        raise UserError("the prompt is not UTF-8", "convert it to UTF-8") from error


@contextmanager
def _first_interrupt(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` at the first Ctrl-C in the block; the second raises LeaveRequested.

    Only the main thread receives signals; in another one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def handler(_number: int, _frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise LeaveRequested
        interrupted = True
        act()

    earlier = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)
