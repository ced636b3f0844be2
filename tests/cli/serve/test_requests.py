"""What a request may say: everything is used, changes nothing, or is refused by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.serve.errors import ApiError
from cli.serve.requests import CHANGE_NOTHING, NEUTRAL, STOPS_MAX, UNSUPPORTED, USED, read_chat, read_completion
from events.generation import ChatMessage, Sampling

CHAT = {"model": "head", "messages": [{"role": "user", "content": "Hi"}]}


def chat(**more: Any) -> Any:
    return read_chat(json.dumps({**CHAT, **more}).encode())


def test_all_parameters_are_read() -> None:
    found = chat(
        temperature=1, top_p=0.5, top_k=3, max_completion_tokens=7, seed=-1, stop="END", stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    assert found.sampling == Sampling(temperature=1.0, top_p=0.5, top_k=3, max_tokens=7, seed=2**62 - 1)
    assert (found.model, found.stop, found.stream, found.with_usage) == ("head", ("END",), True, True)
    assert found.messages == (ChatMessage("user", "Hi"),)


def test_null_is_not_given() -> None:
    assert chat(**dict.fromkeys([*UNSUPPORTED, *NEUTRAL, *USED - {"model", "messages", "prompt"}])) == chat()


def test_every_parameter_of_the_client_is_known() -> None:
    """Those that the official client sends: none is called unknown."""
    from openai.types import completion_create_params as text
    from openai.types.chat import completion_create_params as dialogue

    known = USED | CHANGE_NOTHING | UNSUPPORTED | NEUTRAL.keys()
    for module in (text, dialogue):
        assert module.CompletionCreateParamsStreaming.__annotations__.keys() - known == set()


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"n": True}, "n", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"logprobs": 0}, "logprobs", "unsupported_parameter"),
        ({"logit_bias": {"1": 2}}, "logit_bias", "unsupported_parameter"),
        ({"presence_penalty": 0.5}, "presence_penalty", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter"),
        ({"min_p": 0.1}, "min_p", "unknown_parameter"),
        ({"prompt": "x"}, "prompt", "unknown_parameter"),
        ({"model": ""}, "model", "invalid_value"),
        ({"model": 1}, "model", "invalid_value"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"temperature": "1"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 10**30}, "max_tokens", "invalid_value"),
        ({"top_k": 2**31}, "top_k", "invalid_value"),
        ({"seed": 10**400}, "seed", "invalid_value"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": [1]}, "stop", "invalid_value"),
        ({"stop": ["x"] * (STOPS_MAX + 1)}, "stop", "invalid_value"),
        ({"stream": 1}, "stream", "invalid_value"),
        ({"stream_options": {"more": 1}}, "stream_options", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": ["Hi"]}, "messages[0]", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x", "name": "n"}]}, "messages[0].name", "unsupported_parameter"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
            "invalid_value",
        ),
    ],
)
def test_anything_else_is_refused_by_name(more: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**more)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)
    assert caught.value.message.startswith(param)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"model": "\\ud800"}', b"\xff", b"[" * 100_000])
def test_body_that_is_no_object_of_text_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="the body is not"):
        read_chat(body)


def test_dialogue_without_end_is_refused() -> None:
    with pytest.raises(ApiError, match="more than any model takes"):
        chat(messages=[{"role": "user", "content": "x" * 5_000_000}])


def test_text_to_continue_is_one_text() -> None:
    found = read_completion(b'{"model": "base", "prompt": ["Once"], "max_tokens": 3, "echo": false, "best_of": 1}')
    assert (found.messages, found.plain) == ((ChatMessage("user", "Once"),), True)
    for prompt in (["a", "b"], [1, 2], "", []):
        with pytest.raises(ApiError, match="prompt must be one text"):
            read_completion(json.dumps({"model": "base", "prompt": prompt}).encode())
