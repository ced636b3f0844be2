"""OpenAI's own client talks to the models of a home."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from typing import Any

import openai
import pytest

from cli.generate import process as generate_process
from cli.generate.process import Answer, GenerationProcess
from cli.home.event_store import EventStore
from cli.home.paths import Home
from core.commands import PruneCheckpoints
from events.generation import ChatMessage, MemoryBudget, Sampling
from tests.cli.serve.conftest import Served
from tests.harness.tiny_model import make_rows
from tests.waiting import eventually

QUESTION = "What is 3 and 8?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
LONG = 480
"""Tokens: an answer that takes long."""

Serve = Callable[..., AbstractContextManager[Served]]


def ask(api: Served, model: str = "head", **how: Any) -> Any:
    how = {"messages": MESSAGES, "temperature": 0, "max_tokens": 12, **how}
    return api.client.chat.completions.create(model=model, **how)


def text(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def refusal(api: Served, **how: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(api, **how)
    return caught.value


# -- answers ----------------------------------------------------------------------------------------------------------


def test_models_are_the_head_the_base_and_every_version(api: Served) -> None:
    assert [each.id for each in api.client.models.list()] == ["head", "base", "origin", "latest", "v001"]
    assert api.client.models.retrieve("v001").owned_by == "keepstep"
    assert api.client.models.retrieve("step-00000003").id == "step-00000003"
    with pytest.raises(openai.NotFoundError):
        api.client.models.retrieve("v009")


def test_models_answer_as_with_the_command_and_switch_without_a_restart(api: Served) -> None:
    question, sampling = [ChatMessage("user", QUESTION)], Sampling(temperature=1.2, seed=4, max_tokens=12)
    with GenerationProcess(api.home) as process:
        for name in ("head", "base", "v001", "base", "head"):
            process.load(name, "cpu")
            expected = process.generate(question, sampling, lambda _: True)
            answer = ask(api, name, temperature=1.2, seed=4)
            assert text(answer) == expected.text
            assert answer.usage.prompt_tokens == expected.prompt_tokens
            assert answer.usage.completion_tokens == expected.tokens
            assert answer.model == name
    assert answer.system_fingerprint == "step-00000004-attempt-0003/cpu/float32"


def test_stream_is_the_answer_in_pieces_with_its_usage(api: Served) -> None:
    whole = ask(api, temperature=1.2, seed=4)
    chunks = [*ask(api, temperature=1.2, seed=4, stream=True, stream_options={"include_usage": True})]
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [each.choices[0].delta.content or "" for each in chunks[:-1]]
    assert len(pieces) > 3
    assert "".join(pieces) == text(whole)
    assert [each.choices[0].finish_reason for each in chunks[:-1]] == [None] * (len(pieces) - 1) + ["length"]
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert {each.system_fingerprint for each in chunks} == {whole.system_fingerprint}
    assert len({each.id for each in chunks}) == 1
    assert all(each.usage is None for each in ask(api, stream=True))


def test_answer_ends_before_a_stop_text(api: Served) -> None:
    varied = {"temperature": 1.2, "seed": 4, "max_tokens": 24}
    whole = text(ask(api, **varied))
    middle = whole[len(whole) // 2 :][:2]
    answer = ask(api, **varied, stop=["no such text", middle])
    assert text(answer) == whole[: whole.index(middle)]
    assert answer.choices[0].finish_reason == "stop"
    streamed = [*ask(api, **varied, stop=middle, stream=True)]
    assert "".join(each.choices[0].delta.content or "" for each in streamed) == text(answer)
    assert streamed[-1].choices[0].finish_reason == "stop"


def test_parts_of_text_and_names_of_roles_are_those_of_openai(api: Served) -> None:
    plain = [{"role": "system", "content": "Be\nbrief."}, *MESSAGES]
    parts = [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]
    other = [{"role": "developer", "content": parts}, {**MESSAGES[0], "refusal": None, "tool_calls": []}]
    harmless = {"user": "me", "metadata": {"a": "b"}, "store": False, "n": 1, "max_completion_tokens": 12}
    answers = [ask(api, messages=plain, temperature=1.2, seed=1)]
    answers.append(ask(api, messages=other, temperature=1.2, seed=1, **harmless))
    assert text(answers[0]) == text(answers[1])
    assert answers[0].usage == answers[1].usage


def test_text_is_continued_without_the_chat_template(api: Served) -> None:
    chosen: Any = {"model": "base", "prompt": "What is", "max_tokens": 6, "temperature": 1.2, "seed": 2}
    whole = api.client.completions.create(**chosen)
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == len("What is")  # a token for each character, and none of a template
    streamed = [*api.client.completions.create(**chosen, stream=True)]
    assert "".join(each.choices[0].text for each in streamed) == whole.choices[0].text


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_unknown_model_is_not_found_and_the_others_are_named(api: Served) -> None:
    error = refusal(api, model="v009")
    assert (type(error), error.code, error.param) == (openai.NotFoundError, "model_not_found", "model")
    assert "choose one of: base, origin, head, latest, v001" in str(error).lower()


def test_parameter_that_would_change_the_answer_is_refused_by_name(api: Served) -> None:
    error = refusal(api, tools=[{"type": "function", "function": {"name": "f"}}])
    assert (error.status_code, error.param, error.code) == (400, "tools", "unsupported_parameter")


def test_dialogue_that_is_too_long_is_refused_not_shortened(api: Served) -> None:
    turns: Any = [{"role": role, "content": "x" * 300} for role in ("user", "assistant", "user")]
    error = refusal(api, messages=turns)
    assert (error.status_code, error.code, error.param) == (400, "context_length_exceeded", "messages")
    assert text(ask(api)) is not None  # the server answers on


def test_every_path_needs_the_key(api: Served) -> None:
    stranger = api.client.with_options(api_key="wrong")
    for path in ("models", "models/head", "chat/completions", "completions", "nothing"):
        with pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"):
            stranger.get(f"/{path}", cast_to=object)


def test_name_that_leads_here_is_refused(api: Served) -> None:
    """DNS rebinding: a foreign page whose name points to this machine."""
    for host in ("evil.example", "127.0.0.1.evil.example", ""):
        with pytest.raises(openai.BadRequestError, match=r"the host name .* is not allowed"):
            api.client.with_options(default_headers={"Host": host}).models.list()
    assert api.client.with_options(default_headers={"Host": "127.0.0.1:1"}).models.list()


def test_path_and_body_that_make_no_sense_are_errors_of_the_same_form(api: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no GET /v1/embeddings"):
        api.client.get("/embeddings", cast_to=object)
    with pytest.raises(openai.APIStatusError, match="wrong method for GET /v1/chat/completions"):
        api.client.get("/chat/completions", cast_to=object)
    address = f"http://127.0.0.1:{api.port}/v1/chat/completions"
    headers = {"Authorization": f"Bearer {api.client.api_key}"}
    for body, status in ((b"{nonsense", 400), (b"[" * 100_000, 400), (b'"' + b"x" * 17 * 2**20 + b'"', 413)):
        with pytest.raises(urllib.request.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(address, body, headers))
        assert caught.value.code == status
        assert json.load(caught.value)["error"]["message"]


def test_too_little_memory_asks_to_try_again_later(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(api, "v001")
    with monkeypatch.context() as patch:
        patch.setattr(generate_process, "measure_budget", lambda *_: MemoryBudget(free_bytes=1000))
        error = refusal(api, model="base")
    assert (error.status_code, error.code) == (503, "memory_short")
    assert int(error.response.headers["retry-after"]) > 0
    assert "needs 0.3 GB of memory" in str(error)
    ask(api, "base")


# -- the queue --------------------------------------------------------------------------------------------------------


@pytest.fixture
def finishes(api: Served, monkeypatch: pytest.MonkeyPatch) -> list[Answer]:
    """The answers that the process completed or stopped."""
    found: list[Answer] = []
    generate = GenerationProcess.generate

    def watch(*arguments: Any, **how: Any) -> Answer:
        found.append(generate(*arguments, **how))
        return found[-1]

    monkeypatch.setattr(GenerationProcess, "generate", watch)
    return found


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_stops_its_answer(api: Served, finishes: list[Answer], stream: bool) -> None:
    ask(api)
    finishes.clear()
    if stream:
        answer = ask(api, stream=True, max_tokens=LONG)
        next(answer)
        answer.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            ask(api, max_tokens=LONG, timeout=0.3)
    eventually(lambda: finishes)
    assert finishes[0].finish == "stopped"
    assert finishes[0].tokens < LONG
    ask(api)


def test_more_requests_than_may_wait_are_refused_for_now(api: Served) -> None:
    answers = [ask(api, stream=True, max_tokens=LONG)]
    with pytest.raises(openai.APITimeoutError):  # it waits for the first one, and leaves its place
        ask(api, timeout=0.3)
    eventually(lambda: api.engine._open == 1)
    waiting = [api.engine, api.engine]
    for each in waiting:
        each._open += 1
    try:
        error = refusal(api)
    finally:
        for each in waiting:
            each._open -= 1
    assert (type(error), error.code) == (openai.RateLimitError, "queue_full")
    assert 1 <= int(error.response.headers["retry-after"]) <= 60
    answers[0].close()
    eventually(lambda: api.engine._open == 0)


# -- the process ------------------------------------------------------------------------------------------------------


def test_killed_process_is_an_error_of_its_answer_and_the_next_request_starts_another(api: Served) -> None:
    expected = text(ask(api))
    stream = ask(api, stream=True, max_tokens=LONG)
    next(stream)
    api.engine._process._process.kill()
    with pytest.raises(openai.APIError, match="it was killed by SIGKILL"):
        list(stream)
    assert text(ask(api)) == expected
    api.said.clear()
    api.engine._process._process.kill()  # while nobody asks
    api.engine._process._process.wait()
    assert text(ask(api)) == expected
    assert "killed by SIGKILL; another one is started" in api.said[0]


# -- training ---------------------------------------------------------------------------------------------------------


def test_head_is_the_newest_checkpoint_and_a_deleted_one_is_not_found(
    serve: Serve, consolidated: Home, train_rows: Callable[[Home, bytes], None]
) -> None:
    with serve(consolidated) as api:
        assert ask(api).system_fingerprint == "step-00000004-attempt-0003/cpu/float32"
        assert ask(api, "step-00000003").system_fingerprint == "step-00000003-attempt-0003/cpu/float32"
        train_rows(consolidated, make_rows(16, 200))
        assert ask(api).system_fingerprint == "step-00000005-attempt-0004/cpu/float32"
        assert [line.partition(" on ")[0] for line in api.said if line.startswith("head:")] == [
            "head: step-00000004-attempt-0003",
            "head: step-00000005-attempt-0004",
        ]
        with closing(EventStore.open(consolidated)) as store:
            store.execute(PruneCheckpoints(keep=1))
        error = refusal(api, model="step-00000003")
        assert (error.status_code, error.code) == (404, "model_not_found")


def test_answer_ends_if_training_waits_for_memory(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(api)
    stream = ask(api, stream=True, max_tokens=LONG)
    next(stream)
    monkeypatch.setattr(api.engine, "_training_waits_for_memory", lambda: True)
    with pytest.raises(openai.APIError, match="training waits for memory"):
        list(stream)
    assert not api.engine._process.is_running
    assert "left the memory: training waits for memory" in api.said[-1]
    monkeypatch.undo()
    ask(api)
