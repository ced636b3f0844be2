"""Answers are located in texts that do not begin with their prompts."""

from __future__ import annotations

import pytest

from gpu.data.template.divergence import AnswerRenderings, LocatedAnswer, explain_divergence, locate_answer


def renderings(prompt: str, text: str, *, bare: str = "u", question: str = "u", probe: str = "") -> AnswerRenderings:
    return AnswerRenderings(bare, question, prompt, text, probe or text.replace("answer", "PROBE"))


@pytest.mark.parametrize(
    ("made", "content", "answer"),
    [
        (renderings("u[A]<think>\n", "u[A]answer;"), "answer", "answer;"),
        (renderings("u[A]<think>\n", "u[A]<think></think>answer;"), "answer", "</think>answer;"),
        (renderings("u[A] ", "u[A]answer;"), "answer", "answer;"),
        (renderings("u[A]<think>\n", "u[A]<thanks>;", probe="u[A]PROBE;"), "<thanks>", "<thanks>;"),
        (renderings("u[A]<think>\n", "u[A]2;", probe="u[A]PROBE;"), "<think>easy</think>2", "easy</think>2;"),
        (
            renderings(
                "u[A]<think>\n\n</think>\n", "u[A]<think>\nx</think>2;", probe="u[A]<think>\n\n</think>\nPROBE;"
            ),
            "<think>\nx</think>2",
            "x</think>2;",
        ),
        (renderings("u[A]<t>1;[A]", "u[A]1;[A]<t>answer;", bare="u[A]<t>1;"), "answer", "<t>answer;"),
    ],
)
def test_an_answer_is_found_after_its_header(made: AnswerRenderings, content: str, answer: str) -> None:
    found = locate_answer(made, content, "PROBE")
    assert found is not None
    assert found.text[found.start :] == answer
    assert found.text.startswith(made.prompt[: found.start])


@pytest.mark.parametrize(
    ("made", "content"),
    [
        (renderings("u[A]", "u[B]answer;"), "answer"),
        (renderings("u[A]<think>", "uanswer;"), "answer"),
        (renderings("1u[A]", "2u[A]answer;", bare="1u", question="1u"), "answer"),
        (renderings("u[A]<think>", "u[A]2;", probe="u[A]PROBE;"), "So: <think>easy</think>2"),
        (renderings("u[A]1;[A]", "u[A]1;answer;", bare="u[A]1;"), "answer"),
        (renderings("u[A]<t>1;[A]", "u[A]1;[A];", bare="u[A]<t>1;", probe="u[A]1;[A];"), "answer"),
        (renderings("", "", bare="", question=""), "answer"),
    ],
    ids=["another header", "no header", "another context", "cut off", "one header for both", "left out", "nothing"],
)
def test_an_unclear_answer_is_not_guessed(made: AnswerRenderings, content: str) -> None:
    assert locate_answer(made, content, "PROBE") is None


def test_an_answer_after_its_prompt_has_the_prompt_as_its_context() -> None:
    made = renderings("u[A]<t>1;[A]", "u[A]1;[A]<t>answer;", bare="u[A]<t>1;")
    assert locate_answer(made, "answer", "PROBE") == LocatedAnswer("u[A]<t>1;[A]<t>answer;", len("u[A]<t>1;[A]"))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (renderings("u", "v", bare="u"), "continues with 'u', with the answer with 'v'"),
        (renderings("u[A] ", "u[A]x", bare="u[A] y"), "white space at the end"),
        (renderings("u</think>[A]", "u[A]x", bare="u</think>"), "reasoning of an earlier answer"),
        (renderings("sys u[A]", "u[A]x", bare="sys u"), "system prompt"),
        (renderings("tool u[A]", "u[A]x", bare="tool u"), "declared tools"),
    ],
)
def test_a_cause_is_named(made: AnswerRenderings, says: str) -> None:
    cause, advice = explain_divergence(made, "sys", "tool")
    assert says in cause
    assert advice
