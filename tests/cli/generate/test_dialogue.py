"""A dialogue from a pipe and on a terminal, with a real model."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cli.errors import UserError
from cli.generate.dialogue import Dialogue
from cli.generate.process import GenerationProcess
from events.generation import Sampling

GREEDY = Sampling(greedy=True, max_tokens=8)


def talk(
    process: GenerationProcess,
    monkeypatch: pytest.MonkeyPatch,
    lines: str,
    system: str = "",
    model: str = "head",
    sampling: Sampling = GREEDY,
) -> Dialogue:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    dialogue = Dialogue(process, model, "cpu", sampling, system)
    dialogue.run()
    return dialogue


def contents(dialogue: Dialogue) -> list[str]:
    return [message.content for message in dialogue._messages if message.role == "user"]


def test_each_line_of_a_pipe_is_a_turn(
    process: GenerationProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dialogue = talk(process, monkeypatch, "What is 1 and 1?\n\n  \n/unknown is a turn\nlast")
    assert contents(dialogue) == ["What is 1 and 1?", "/unknown is a turn", "last"]
    shown = capsys.readouterr()
    answers = [message.content for message in dialogue._messages if message.role == "assistant"]
    assert shown.out == "".join(f"{answer}\n" for answer in answers)
    assert "[head: step-00000004-attempt-0003 on v001; CPU, float32]" in shown.err


def test_earlier_turns_are_part_of_the_prompt(process: GenerationProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    generate = process.generate

    def watch(messages, *rest):  # type: ignore[no-untyped-def]
        asked.append([f"{each.role}: {each.content}" for each in messages])
        return generate(messages, *rest)

    monkeypatch.setattr(process, "generate", watch)
    answer = talk(process, monkeypatch, "one\ntwo\n/system Be brief.\nthree\n/reset\nfour\n", "Be kind.")
    answers = [f"assistant: {message.content}" for message in answer._messages]
    assert asked[0] == ["system: Be kind.", "user: one"]
    assert asked[1][:2] == asked[0]
    assert asked[1][3] == "user: two"
    assert asked[2] == ["system: Be brief.", "user: three"]
    assert asked[3] == ["system: Be brief.", "user: four"]
    assert len(answers) == 2


def test_exit_ends_and_help_lists_the_commands(
    process: GenerationProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dialogue = talk(process, monkeypatch, "/help\n/exit\nnot asked\n")
    assert contents(dialogue) == []
    listed = capsys.readouterr().err
    for command in ("/reset", "/system", "/model", "/save", "/help", "/exit", "Ctrl-C"):
        assert command in listed


def test_model_can_be_changed(
    process: GenerationProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dialogue = talk(process, monkeypatch, "/model v1\nhi\n/model\n")
    assert dialogue._model.model.source.version == "v001"
    assert capsys.readouterr().err.count("[v1: v001; CPU, float32]") == 2


def test_dialogue_is_saved_as_a_row(
    process: GenerationProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As it is at that moment, with the system text; the second time without the name."""
    path = tmp_path / "my rows.jsonl"
    lines = f"one\n/save {path}\ntwo\n/save\n/reset\nthree\n/save"
    varied = Sampling(temperature=1.2, seed=4, max_tokens=8)
    dialogue = talk(process, monkeypatch, lines, "Be kind.", sampling=varied)
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert [[each["role"] for each in row] for row in rows] == [
        ["system", *["user", "assistant"] * turns] for turns in (1, 2, 1)
    ]
    assert rows[1][:3] == rows[0]
    assert rows[2][1:] == [{"role": each.role, "content": each.content} for each in dialogue._messages]
    said = capsys.readouterr().err
    assert f"to train on it: keepstep add '{path}'" in said
    assert "an answer was cut short" in said  # after 8 tokens
    with pytest.raises(UserError, match="needs the name of a file"):
        talk(process, monkeypatch, "one\n/save\n")


def test_unknown_model_ends_a_dialogue_from_a_pipe(process: GenerationProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no model 'v7'"):
        talk(process, monkeypatch, "/model v7\nnot asked\n")


def test_oldest_turns_are_left_out_with_a_sentence_and_not_sent_again(
    process: GenerationProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [letter * 200 for letter in "abc"]
    dialogue = talk(process, monkeypatch, "\n".join([*lines, "short"]))
    assert contents(dialogue) == [*lines[1:], "short"]
    said = capsys.readouterr().err
    assert said.count("its oldest 2 messages were left out") == 1


@contextmanager
def terminal(home: Path) -> Iterator[Terminal]:
    """A dialogue in a separate process, on a terminal of 80 columns."""
    pid, fd = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it, and pass that on
        os.environ.update(COLUMNS="80", PYTHONPATH=str(Path(__file__).parents[3]))
        arguments = ["chat", "--home", str(home), "--greedy", "--max-tokens", "400", "--device", "cpu"]
        program = f"import sys; sys.executable = {sys.executable!r}; from cli.main import main; main()"
        python = str(Path(sys.prefix) / "bin" / "python")
        os.execv(python, [python, "-c", program, *arguments])
    running = Terminal(pid, fd)
    try:
        yield running
    finally:
        if not running.ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(fd)


class Terminal:
    """The other end of a terminal."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid, self.fd = pid, fd
        self.unread = b""
        self.ended = False

    def until(self, text: str, timeout_s: float = 60.0) -> None:
        """Read up to and including `text`."""
        deadline = time.monotonic() + timeout_s
        while text.encode() not in self.unread:
            assert time.monotonic() < deadline, self.unread.decode(errors="replace")
            if select.select([self.fd], [], [], 0.1)[0]:
                self.unread += os.read(self.fd, 4096)
        self.unread = self.unread.partition(text.encode())[2]

    def interrupt_until(self, text: str) -> None:
        """Send Ctrl-C until `text` appears: readline shows its prompt a moment before it waits for signals."""
        for _ in range(60):
            self.send("\x03")
            with suppress(AssertionError):
                return self.until(text, 1.0)
        raise AssertionError(self.unread.decode(errors="replace"))

    def send(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def exit_code(self) -> int:
        deadline = time.monotonic() + 60
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            assert time.monotonic() < deadline, "the program does not end"
            time.sleep(0.05)
        self.ended = True
        return os.waitstatus_to_exitcode(ended[1])


def test_ctrl_c_stops_the_answer_and_ctrl_d_ends_the_program(consolidated_once: Path, warm: None) -> None:
    with terminal(consolidated_once) as shown:
        shown.until("Ctrl-D ends]\r\n> ")
        shown.send("What is 3 and 8?\n")
        shown.until("\r\n")  # the terminal's echo
        shown.send("\x03")
        shown.until("\r\n> ")
        shown.interrupt_until("Ctrl-D or /exit ends]\r\n> ")
        shown.send("/model v9\n")
        shown.until("choose one of: base, origin, head")
        shown.until("[head: step-00000004-attempt-0003 on v001; CPU, float32]\r\n> ")
        shown.send("/unknown\n")
        shown.until("there is no command /unknown")
        shown.until("\r\n> ")
        shown.send("\x04")
        assert shown.exit_code() == 0
