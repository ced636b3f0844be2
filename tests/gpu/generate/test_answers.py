"""Answers to many prompts: those of one prompt at a time, in batches, and without traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from events.generation import SamplingInUse
from gpu.generate import answers
from gpu.generate.answers import Reply, answer_all, answering
from gpu.model.build import build
from tests.gpu.helpers import FULL, LORA, Home, settings
from tests.harness.tiny_model import make_tiny_model

PROMPTS = [[7 + n] * length for n, length in enumerate((3, 9, 3, 1, 20))]
ENDS = [2]


def greedy(tokens: int) -> SamplingInUse:
    return SamplingInUse(
        greedy=True, temperature=None, top_p=None, top_k=None, repetition_penalty=1.0, max_tokens=tokens, seed=1
    )


def drawn(tokens: int, seed: int) -> SamplingInUse:
    return SamplingInUse(
        greedy=False, temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0, max_tokens=tokens, seed=seed
    )


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """One that says something else to each prompt: its weights are large."""
    make_tiny_model(tmp_path / "model", initializer_range=0.5)
    return build(settings(FULL), tmp_path, torch.device("cpu")).model


def answered(model: Any, sampling: SamplingInUse, **options: Any) -> list[Reply]:
    with answering(model):
        return answer_all(model, PROMPTS, sampling, ENDS, options.pop("context", 512), "fp32", quiet, **options)


def quiet(_done: int, _total: int) -> None:
    """Nobody watches."""


def test_a_batch_gives_the_answers_of_one_prompt_at_a_time(model: Any) -> None:
    """Padding changes no token, and the answers stand in the order of the prompts."""
    alone = answered(model, greedy(12), batch_max=1)
    assert answered(model, greedy(12)) == alone
    assert answered(model, greedy(12), batch_max=2) == alone
    assert len({tuple(reply.ids) for reply in alone}) == len(PROMPTS)


def test_an_answer_ends_where_the_model_ends_it(model: Any) -> None:
    """The token that ends it is counted and left out."""
    (first, *_) = answered(model, greedy(12))
    end = first.ids[4]
    at = first.ids.index(end)
    with answering(model):
        (reply,) = answer_all(model, PROMPTS[:1], greedy(12), [end], 512, "fp32", quiet)
    assert reply == Reply(first.ids[:at], "end", at + 1)
    assert first.finish in {"end", "length"}


def test_an_answer_stays_within_the_context(model: Any) -> None:
    """A prompt that fills it gets none."""
    replies = answered(model, greedy(12), context=20, batch_max=1)
    assert replies[4] == Reply([], "context", 0)
    assert len(replies[1].ids) <= 11
    assert replies[1].finish in {"end", "context"}


def test_the_seed_decides_what_is_drawn(model: Any) -> None:
    """Whatever was drawn before."""
    first = answered(model, drawn(8, seed=1))
    torch.rand(3)
    assert answered(model, drawn(8, seed=1)) == first
    assert answered(model, drawn(8, seed=2)) != first


def test_a_batch_that_does_not_fit_is_halved(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are the same; one prompt that does not fit alone is an error."""
    whole = answered(model, greedy(4))
    real, sizes = answers._answer_batch, list[int]()

    def short(model: Any, prompts: Any, *rest: Any) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > most:
            raise torch.OutOfMemoryError("injected")
        return real(model, prompts, *rest)

    monkeypatch.setattr(answers, "_answer_batch", short)
    most = 2
    assert answered(model, greedy(4)) == whole
    assert sizes == [5, 3, 2, 2, 1]
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        answered(model, greedy(4))


def test_a_watcher_sees_each_token_and_may_end_the_round(model: Any) -> None:
    """What it raises comes out, and the modes are restored."""
    seen: list[tuple[int, int]] = []
    with answering(model):
        answer_all(model, PROMPTS, greedy(4), ENDS, 512, "fp32", lambda *at: seen.append(at), batch_max=3)
    assert seen[0] == (1, 8)
    assert all(done <= total for done, total in seen)

    def ends(_done: int, _total: int) -> None:
        assert not model.training
        raise KeyError("enough")

    def ended() -> None:
        with answering(model):
            answer_all(model, PROMPTS, greedy(4), ENDS, 512, "fp32", ends)

    model.train()
    with pytest.raises(KeyError):
        ended()
    assert model.training


def test_a_model_with_an_adapter_answers_with_it(home: Home) -> None:
    """While it trains: the adapter is part of the model."""
    trained = build(settings(LORA), home.path, torch.device("cpu"))
    before = answered(trained.model, greedy(6))
    with torch.no_grad():
        for parameter in trained.parameters.values():
            parameter.add_(1.0)
    assert answered(trained.model, greedy(6)) != before
    assert all(parameter.grad is None for parameter in trained.parameters.values())
