"""The process that generates text: it streams, stops, follows the head, and every failure is a sentence."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cli.errors import UserError
from cli.generate import process as module
from cli.generate.models import find_model
from cli.generate.process import Answer, GenerationProcess
from cli.home.event_store import EventStore
from cli.home.paths import Home
from core.commands import PruneCheckpoints
from events.generation import ChatMessage, MemoryBudget, Sampling

QUESTION = [ChatMessage("user", "What is 3 and 8?")]
GREEDY = Sampling(greedy=True, max_tokens=24)
LONG = Sampling(greedy=True, max_tokens=480)

Start = Callable[..., GenerationProcess]
Show = Callable[[str], bool]


def ask(
    process: GenerationProcess, sampling: Sampling = GREEDY, show: Callable[[str], bool] = lambda _: True
) -> Answer:
    return process.generate(QUESTION, sampling, show)


def test_each_model_gives_its_own_answer_each_time(process: GenerationProcess) -> None:
    answers = {}
    for name in ("base", "v001", "head"):
        loaded = process.load(name, "cpu")
        assert (loaded.loaded.device, loaded.loaded.dtype, loaded.loaded.context_tokens) == ("cpu", "float32", 512)
        assert loaded.loaded.has_chat_template
        answers[name] = ask(process).text
        assert ask(process).text == answers[name]
    assert len(set(answers.values())) == 3


def test_pieces_of_the_stream_are_the_answer(process: GenerationProcess) -> None:
    process.load("head", "cpu")
    shown: list[str] = []

    def show(text: str) -> bool:
        shown.append(text)
        return True

    answer = ask(process, show=show)
    assert "".join(shown) == answer.text
    assert answer.finish in {"length", "end"}
    assert (answer.sampling.max_tokens, answer.sampling.greedy, answer.dropped) == (24, True, ())


def test_reader_that_leaves_stops_the_answer(process: GenerationProcess) -> None:
    process.load("head", "cpu")
    answer = ask(process, LONG, lambda _: False)
    assert answer.tokens < 480
    assert answer.finish == "stopped"
    assert ask(process).finish != "stopped"


def test_ctrl_c_stops_the_answer_and_not_the_program(process: GenerationProcess) -> None:
    process.load("head", "cpu")
    before = signal.getsignal(signal.SIGINT)
    began = threading.Event()

    def interrupt() -> None:
        began.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    answer = process.generate(QUESTION, LONG, lambda _: True, lambda _: began.set())
    assert answer.finish == "stopped"
    assert signal.getsignal(signal.SIGINT) is before


def test_refused_dialogue_is_a_sentence_and_the_model_stays(process: GenerationProcess) -> None:
    process.load("head", "cpu")
    with pytest.raises(UserError, match=r"cannot answer: the message has .* tokens") as caught:
        process.generate([ChatMessage("user", "x" * 2000)], GREEDY, lambda _: True)
    assert caught.value.advice == "shorten it"
    assert ask(process).text


def test_head_that_is_deleted_while_it_is_read_is_the_next_head(
    consolidated: Home, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention deletes the checkpoint that was found; the name now means another one."""
    found = [find_model(consolidated, "step-00000003")._replace(name="head"), find_model(consolidated, "head")]
    with closing(EventStore.open(consolidated)) as store:
        store.execute(PruneCheckpoints(keep=1))
    shutil.rmtree(consolidated.checkpoints / "step-00000003-attempt-0003")
    monkeypatch.setattr(module, "find_model", lambda *_: found.pop(0))
    assert start(consolidated).load("head", "cpu").model.source.checkpoint == "step-00000004-attempt-0003"


def test_deleted_files_do_not_end_a_dialogue(consolidated: Home, start: Start) -> None:
    process = start(consolidated)
    process.load("head", "cpu")
    before = ask(process).text
    shutil.rmtree(consolidated.checkpoints)
    shutil.rmtree(consolidated.versions)
    assert ask(process).text == before


def test_damaged_version_is_refused(consolidated: Home, start: Start) -> None:
    path = consolidated.versions / "v001" / "model.safetensors"
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"latest \(v001\) cannot be loaded: .*not what was published"):
        start(consolidated).load("latest", "cpu")


def test_too_little_memory_is_a_sentence(consolidated: Home, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure_budget", lambda *_: MemoryBudget(free_bytes=1000))
    with pytest.raises(UserError, match=r"needs 0\.3 GB of memory, and 0\.0 GB may be taken") as caught:
        start(consolidated).load("base", "cpu")
    assert caught.value.advice == "close other programs"


def test_gpu_that_is_not_there_is_a_sentence(process: GenerationProcess) -> None:
    with pytest.raises(UserError, match="there is no GPU that torch can use") as caught:
        process.load("base", "cuda")
    assert "--device cpu" in caught.value.advice


def test_killed_process_is_a_sentence_and_the_next_load_starts_another(
    consolidated: Home, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(consolidated)
    process.load("head", "cpu")
    before = ask(process).text
    kills = iter((0, 1))
    process._process.kill()
    with pytest.raises(UserError, match=r"ended: it was killed by SIGKILL") as caught:
        ask(process)
    assert "free -h" in caught.value.advice
    monkeypatch.setattr(module, "count_oom_kills", lambda: next(kills))
    process.load("head", "cpu")
    assert ask(process).text == before
    process._process.kill()
    with pytest.raises(UserError, match="the machine ran out of memory"):
        ask(process)


def test_missing_torch_is_a_sentence(
    consolidated: Home, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real Python, in which importing torch fails."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "torch.py").write_text("raise ImportError('no libcudart')", encoding="utf-8")
    monkeypatch.setattr(sys, "executable", str(Path(sys.prefix) / "bin" / "python"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "without"))
    with pytest.raises(UserError, match="torch cannot be loaded: no libcudart") as caught:
        start(consolidated).load("base", "cpu")
    assert "force-reinstall" in caught.value.advice


def test_process_that_sends_nonsense_is_a_sentence(
    consolidated: Home, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(consolidated)
    process.load("base", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(process, "_connection", FakeConnection(b"nonsense\n"))
        with pytest.raises(UserError, match="cannot be understood"):
            ask(process)


class FakeConnection:
    """Its other end sends these bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def recv(self, _size: int) -> bytes:
        return self.data

    def close(self) -> None:
        pass


def test_process_ends_with_its_command(consolidated: Home, start: Start) -> None:
    process = start(consolidated)
    process.load("base", "cpu")
    child = process._process
    process.close()
    deadline = time.monotonic() + 10
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert child.poll() == 0
