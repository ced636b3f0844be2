"""`keepstep chat`: a dialogue with a model.

On a terminal, lines are edited and remembered, and Ctrl-C stops an answer. From a pipe or a file, each line is a turn.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from cli.errors import UserError, error_text
from cli.generate.output import AnswerStream, say, say_dropped, say_finish, say_loaded, waiting
from cli.generate.process import GenerationProcess, LeaveRequested, LoadedModel
from cli.generate.saved_rows import save_row
from events.generation import ChatMessage, GenerationStarted, Sampling
from events.values import Device
from gpu.runtime.streams import reader_is_gone

PROMPT = "> "

HELP = """\
/reset         forget the dialogue
/system TEXT   set the system text and forget the dialogue; without TEXT: none
/model NAME    continue with another model: head, base, v001, step-…
/model         show which model answers
/save FILE     append the dialogue to FILE.jsonl as a training row; later /save alone
/help          show this help
/exit          end; so does Ctrl-D
Ctrl-C stops an answer."""


class Dialogue:
    """A dialogue and the model that it is led with."""

    def __init__(self, process: GenerationProcess, model: str, device: Device, sampling: Sampling, system: str) -> None:
        """Load the model. Raises UserError."""
        self._process = process
        self._device: Device = device
        self._sampling = sampling
        self._system = system
        self._messages: list[ChatMessage] = []
        self._cut_short = False
        """True if an answer of the dialogue is not complete."""
        self._saved_to: Path | None = None
        self._model = self._load(model)

    def run(self) -> None:
        """Answer each line until the end of the input. Raises UserError if an answer to a line of a pipe fails."""
        self._is_terminal = sys.stdin.isatty()
        if self._is_terminal:
            say("[/help lists the commands; Ctrl-D ends]")
        for line in self._lines():
            word, _, rest = line.partition(" ")
            if word == "/exit":
                return
            try:
                if not self._is_command(word, rest.strip()) and line.strip():
                    self._answer(line)
            except UserError as error:
                if not self._is_terminal:
                    raise
                say_lines(error_text(error))
            except KeyboardInterrupt as interrupt:  # before the answer began
                if isinstance(interrupt, LeaveRequested) or not self._is_terminal:
                    raise
                print(flush=True)
            if reader_is_gone():
                return

    def _lines(self) -> Iterator[str]:
        if not self._is_terminal:
            try:
                for line in sys.stdin:
                    yield line.rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"standard input is not UTF-8: {error.reason}", "convert it to UTF-8") from error
            return
        import readline  # noqa: F401 - `input` edits and remembers lines with it

        while True:
            try:
                yield input(PROMPT)
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print(flush=True)
                say("[Ctrl-D or /exit ends]")

    def _is_command(self, word: str, rest: str) -> bool:
        """Carry out a command. False if the line is a turn. Raises UserError."""
        match word:
            case "/help":
                say_lines(HELP)
            case "/reset":
                self._forget()
                say("[the dialogue is forgotten]")
            case "/system":
                self._system = rest
                self._forget()
                say("[the system text is set; the dialogue is forgotten]" if rest else "[there is no system text now]")
            case "/model" if rest:
                self._switch(rest)
            case "/model":
                say_loaded(self._model)
            case "/save":
                self._save(rest)
            case _ if self._is_terminal and word.startswith("/"):
                raise UserError(
                    f"there is no command {word}", "/help lists them; to send the line, put a space before it"
                )
            case _:
                return False
        return True

    def _forget(self) -> None:
        self._messages.clear()
        self._cut_short = False

    def _save(self, name: str) -> None:
        """Append the dialogue to a file; without `name` to the last one. Raises UserError."""
        path = Path(name) if name else self._saved_to
        if path is None:
            raise UserError("/save needs the name of a file", "for example: /save dialogues.jsonl")
        save_row(path, [*self._system_message(), *self._messages], self._process.home)
        self._saved_to = path
        if self._cut_short:
            say("[an answer was cut short; edit the row before you train on it]")
        say(f"[the dialogue is a row of {path}; to train on it: keepstep add {shlex.quote(str(path))}]")

    def _system_message(self) -> list[ChatMessage]:
        return [ChatMessage("system", self._system)] if self._system else []

    def _switch(self, name: str) -> None:
        """Continue with another model. On a terminal, keep the present one if it cannot be loaded. Raises UserError."""
        try:
            self._model = self._load(name)
        except UserError as error:
            if not self._is_terminal:
                raise
            say_lines(error_text(error))
            self._model = self._load(self._model.model.name)

    def _load(self, name: str) -> LoadedModel:
        with waiting(f"loading {name}"):
            loaded = self._process.load(name, self._device)
        say_loaded(loaded)
        return loaded

    def _answer(self, line: str) -> None:
        """Answer a turn, and remember both if there is an answer. Raises UserError."""
        if not self._process.is_running:
            self._model = self._load(self._model.model.name)
        system = self._system_message()
        turn = ChatMessage("user", line)

        stream = AnswerStream()

        def started(beginning: GenerationStarted) -> None:
            if beginning.dropped:
                say_dropped(len(beginning.dropped))

        answer = self._process.generate([*system, *self._messages, turn], self._sampling, stream, started)
        stream.end()
        say_finish(answer)
        self._cut_short = self._cut_short or answer.finish != "end"
        dropped = {index - len(system) for index in answer.dropped}
        kept = [message for index, message in enumerate(self._messages) if index not in dropped]
        self._messages = [*kept, turn, ChatMessage("assistant", answer.text)]


def say_lines(text: str) -> None:
    """Print several lines that are not part of an answer."""
    for line in text.splitlines():
        say(line)
