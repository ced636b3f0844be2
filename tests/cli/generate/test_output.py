"""What is shown of an answer, and where."""

from __future__ import annotations

import sys

import pytest

from cli.generate.models import NamedModel
from cli.generate.output import AnswerStream, say_dropped, say_finish, say_loaded, waiting
from cli.generate.process import Answer, LoadedModel
from events.generation import ModelLoaded, ModelSource, SamplingInUse
from events.settings import JobSettings, ModelSettings

Captured = pytest.CaptureFixture[str]


def answer(finish: str) -> Answer:
    used = SamplingInUse(
        greedy=True, temperature=None, top_p=None, top_k=None, repetition_penalty=1.0, max_tokens=9, seed=1
    )
    return Answer("text", finish, (), 3, 9, used, 0.1)


def test_answer_goes_to_standard_output_as_it_is(capsys: Captured) -> None:
    assert AnswerStream()("two\nlines\t\x1b[31m")
    assert capsys.readouterr() == ("two\nlines\t\x1b[31m", "")


def test_terminal_is_not_controlled_by_an_answer(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    stream = AnswerStream()
    stream("red \x1b[31m\nnext")
    stream.end()
    assert capsys.readouterr().out == "red \\x1b[31m\nnext\n"


@pytest.mark.parametrize(
    "pieces", [["one two three four"], ["o", "ne tw", "o thr", "ee", " four"], [*"one two three four"]]
)
def test_lines_of_an_answer_break_between_words(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, pieces: list[str]
) -> None:
    """Whatever pieces it arrives in."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "9")
    stream = AnswerStream()
    for piece in pieces:
        stream(piece)
    stream.end()
    assert capsys.readouterr().out == "one two \nthree \nfour\n"


def test_a_long_word_and_a_text_without_spaces_are_not_held_back(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    stream = AnswerStream()
    stream("日" * 100)
    assert capsys.readouterr().out.count("日") >= 75
    stream.end()
    assert capsys.readouterr().out.endswith("\n")


def test_notes_go_to_standard_error(capsys: Captured) -> None:
    source = ModelSource(settings=JobSettings(model=ModelSettings(path="m")))
    model = NamedModel("head", "m", source, "nothing is trained yet: the base model answers")
    loaded = ModelLoaded(
        request=1,
        device="cpu",
        dtype="float32",
        arithmetic="fp32",
        context_tokens=None,
        has_chat_template=False,
        notes=("the CPU answers: the GPU is full",),
        seconds=1.0,
    )
    say_loaded(LoadedModel(model, loaded))
    say_dropped(1)
    with waiting("loading"):
        pass
    assert capsys.readouterr() == (
        "",
        "[head: m; CPU, float32]\n"
        "[nothing is trained yet: the base model answers]\n"
        "[the CPU answers: the GPU is full]\n"
        "[the model has no chat template: it continues the text as it is]\n"
        "[the dialogue no longer fits into the context of the model: its oldest 1 message was left out]\n",
    )


@pytest.mark.parametrize(
    ("finish", "said"), [("end", ""), ("stopped", ""), ("length", "--max-tokens"), ("context", "context")]
)
def test_answer_that_ends_early_says_why(finish: str, said: str, capsys: Captured) -> None:
    say_finish(answer(finish))
    text = capsys.readouterr().err
    assert said in text
    assert bool(text) == bool(said)
