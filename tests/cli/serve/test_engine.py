"""When the model leaves the memory, and when its device is chosen again. The process is a fake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cli.generate.models import NamedModel
from cli.generate.process import Answer, LoadedModel, ProcessEnded
from cli.home.paths import Home
from cli.serve import engine as module
from cli.serve.engine import Beginning, Engine
from cli.serve.requests import Question
from events.generation import ChatMessage, GenerationStarted, ModelLoaded, ModelSource, Sampling, SamplingInUse
from events.settings import JobSettings, ModelSettings
from tests.waiting import eventually

SOURCE = ModelSource(settings=JobSettings(model=ModelSettings(path="model")))
USED = SamplingInUse(
    greedy=True, temperature=None, top_p=None, top_k=None, repetition_penalty=1.0, max_tokens=9, seed=1
)


class FakeProcess:
    """Loads on the device that it is given, and answers at once."""

    def __init__(self) -> None:
        self.device = "cuda"
        self.notes: tuple[str, ...] = ()
        self.is_loaded = False
        self.closed = 0
        self.ends: list[ProcessEnded] = []
        """Raised by the next loads."""

    @property
    def is_running(self) -> bool:
        return self.is_loaded

    def __enter__(self) -> FakeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def kill(self) -> None:
        pass

    def stop(self, request: int) -> None:
        pass

    def close(self) -> None:
        self.closed += 1
        self.is_loaded = False

    def load(self, name: str, device: str) -> LoadedModel:
        if self.ends:
            self.is_loaded = False
            raise self.ends.pop(0)
        seconds, self.is_loaded = float(not self.is_loaded), True
        report = ModelLoaded(
            request=1,
            device=self.device,
            dtype="bfloat16",
            arithmetic="bf16",
            context_tokens=8,
            has_chat_template=True,
            notes=self.notes if seconds else (),
            seconds=seconds,
        )
        return LoadedModel(NamedModel(name, "step-00000003", SOURCE), report)

    def generate(self, messages: Any, sampling: Any, show: Any, started: Callable[[Any], None], **_: Any) -> Answer:
        started(GenerationStarted(request=2, prompt_tokens=3, sampling=USED))
        show("Yes")
        return Answer("Yes", "end", (), 3, 1, USED, 0.1)


class Trial:
    """An engine and the world that it looks at."""

    def __init__(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.daemon_runs = False
        self.waits_for_memory = False
        self.process = FakeProcess()
        monkeypatch.setattr(module, "LOOK_EVERY_S", 0.01)
        monkeypatch.setattr(module, "daemon_is_alive", lambda _: self.daemon_runs)
        self.engine = Engine(home, "auto", self.said.append, waiting_max=2, keep_loaded_s=600.0)
        monkeypatch.setattr(self.engine, "_process", self.process)
        monkeypatch.setattr(self.engine, "_training_waits_for_memory", lambda: self.waits_for_memory)

    def ask(self, name: str = "head") -> list[Any]:
        async def read() -> list[Any]:
            question = Question(name, (ChatMessage("user", "Hi"),), Sampling(), (), True, False, False)
            ticket = self.engine.submit(question)
            try:
                return [await ticket.next() for _ in range(3)]
            finally:
                self.engine.finish(ticket)

        return asyncio.run(read())


@pytest.fixture
def trial(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    made = Trial(home, monkeypatch)
    made.engine.start()
    yield made
    made.engine.close()


def test_answer_is_a_beginning_its_text_and_an_end(trial: Trial) -> None:
    beginning, text, answer = trial.ask()
    assert isinstance(beginning, Beginning)
    assert (text, answer.text) == ("Yes", "Yes")
    assert trial.said == ["head: step-00000003 on the GPU, bfloat16"]
    trial.ask()
    assert len(trial.said) == 1


def test_training_that_starts_gets_the_gpu(trial: Trial) -> None:
    trial.ask()
    trial.daemon_runs = True
    eventually(lambda: trial.process.closed)
    assert "training starts on the GPU" in trial.said[-1]
    trial.process.device, trial.process.notes = "cpu", ("the CPU answers: the GPU has 1.0 GB free",)
    trial.ask()
    assert trial.said[-2:] == ["head: step-00000003 on the CPU, bfloat16", *trial.process.notes]


def test_device_is_chosen_again_when_the_training_is_over(trial: Trial) -> None:
    """The model is on the CPU because of the training, also after it answered more than once."""
    trial.daemon_runs = True
    trial.process.device, trial.process.notes = "cpu", ("the CPU answers: the GPU has 1.0 GB free",)
    trial.ask()
    trial.ask()
    assert trial.process.closed == 0
    trial.daemon_runs = False
    trial.ask()
    assert trial.process.closed == 1


def test_model_on_the_cpu_of_a_machine_without_a_gpu_stays(trial: Trial) -> None:
    trial.process.device = "cpu"
    trial.ask()
    trial.daemon_runs = True
    trial.ask()
    assert trial.process.closed == 0


def test_training_that_waits_for_memory_gets_it(trial: Trial) -> None:
    trial.process.device = "cpu"
    trial.ask()
    trial.waits_for_memory = True
    eventually(lambda: trial.process.closed)
    assert "training waits for memory" in trial.said[-1]


def test_unused_model_leaves_the_memory(trial: Trial) -> None:
    trial.engine._keep_loaded_s = 0.05
    trial.ask()
    eventually(lambda: trial.process.closed)
    assert trial.said[-1].startswith("the model left the memory: nobody asked for")
    assert trial.ask()[1] == "Yes"


def test_bug_is_an_error_of_its_answer_and_the_next_one_is_answered(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trial.process, "load", None)
        with pytest.raises(TypeError):
            trial.ask()
    assert "TypeError" in capsys.readouterr().err
    assert trial.ask()[1] == "Yes"


def test_process_that_died_is_replaced_once_unless_memory_ran_out(trial: Trial) -> None:
    """A model that kills its process, and memory that is short, must not start one process after another."""
    died = [ProcessEnded("it was killed", ""), ProcessEnded("it was killed", "")]
    trial.ask()
    trial.process.ends = died[:1]
    assert trial.ask()[1] == "Yes"
    assert "it was killed; another one is started" in trial.said
    for ends in (died, [ProcessEnded("memory", "", out_of_memory=True)]):
        trial.process.ends = [*ends]
        with pytest.raises(ProcessEnded):
            trial.ask()
        assert not trial.process.ends
        assert trial.ask()[1] == "Yes"
