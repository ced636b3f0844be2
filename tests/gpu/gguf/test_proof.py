"""The proof of a GGUF file, with a llama.cpp of a few lines: each check refuses what it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from gpu.gguf import proof
from gpu.gguf.client import NextToken
from gpu.gguf.proof import ProofFailed, prove
from gpu.gguf.reference import ReferenceAnswer, ReferenceAnswers

ANSWER = ReferenceAnswer((("user", "Hi?"),), prompt=[1, 2, 3], tokens=[7, 8, 9], log_probabilities=[-0.1, -0.2, -0.3])
REFERENCE = ReferenceAnswers((ANSWER,), {9: "<end>"}, has_chat_template=True)


class FakeLlama:
    """Answers like the reference, but for what is overridden."""

    prompt: Sequence[int] = ANSWER.prompt
    stops: Sequence[int] = (9,)
    shift = 0.0
    other_token = False

    def encode_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        assert messages == [{"role": "user", "content": "Hi?"}]
        return [*self.prompt]

    def encode(self, text: str) -> list[int]:
        assert text == "Hi?"
        return [*self.prompt]

    def next_token(self, ids: Sequence[int]) -> NextToken:
        place = len(ids) - len(ANSWER.prompt)
        token, logarithm = ANSWER.tokens[place], ANSWER.log_probabilities[place] - self.shift
        return NextToken(0 if self.other_token else token, {token: logarithm})

    def answer(self, ids: Sequence[int], tokens_max: int) -> list[int]:
        assert [*ids] == ANSWER.prompt
        return ANSWER.tokens[:tokens_max]

    def stops_at(self, ids: Sequence[int], token: int) -> bool:
        return token in self.stops


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch) -> FakeLlama:
    fake = FakeLlama()
    monkeypatch.setattr(proof, "LlamaServer", lambda *_: nullcontext(fake))
    return fake


def test_file_that_answers_as_the_model_does_passes(llama: FakeLlama) -> None:
    found = prove(Path("file.gguf"), REFERENCE, "f16")
    assert (found.prompts, found.same_answers, found.positions, found.agreement) == (1, 1, 3, 1.0)
    assert found.distance == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"prompt": [1, 2, 4]}, r"From token 3 on it has \[4\] instead of \[3\]"),
        ({"prompt": [1, 2]}, r"From token 3 on it has \[\] instead of \[3\]"),
        ({"stops": ()}, "does not stop at '<end>' \\(token 9\\)"),
        ({"shift": 0.2}, "differ by 0.20 on average"),
        ({"shift": float("nan")}, "differ by nan"),
        ({"other_token": True}, "at 0% of 3 places"),
    ],
)
def test_file_that_differs_is_refused(llama: FakeLlama, what: dict[str, Any], says: str) -> None:
    for name, value in what.items():
        setattr(llama, name, value)
    with pytest.raises(ProofFailed, match=says):
        prove(Path("file.gguf"), REFERENCE, "f16")


def test_model_that_names_no_end_is_refused(llama: FakeLlama) -> None:
    with pytest.raises(ProofFailed, match="no token that ends an answer"):
        prove(Path("file.gguf"), REFERENCE._replace(ends={}), "f16")


def test_model_without_a_chat_template_is_asked_with_plain_text(llama: FakeLlama) -> None:
    llama.encode_prompt = None  # type: ignore[assignment]
    assert prove(Path("file.gguf"), REFERENCE._replace(has_chat_template=False), "f16").agreement == 1.0
