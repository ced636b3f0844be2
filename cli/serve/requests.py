"""Read requests in the form of OpenAI's API: https://platform.openai.com/docs/api-reference/chat/create.

A parameter is used, or it changes nothing, or it is refused by its name. None is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from cli.generate.process import CHARACTERS_MAX
from cli.serve.errors import ApiError, refused
from events.generation import ChatMessage, Role, Sampling

STOPS_MAX = 16
"""Stop texts of one request. OpenAI takes four; other servers take more."""

CHANGE_NOTHING = frozenset(
    {
        *("user", "metadata", "safety_identifier", "service_tier"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
    }
)
"""Parameters with which a caller describes itself, or chooses what a service costs and keeps for later."""

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "store": (False,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Parameters that keepstep does not support, and the values with which they change nothing."""

UNSUPPORTED = frozenset({"audio", "prediction", "reasoning_effort", "verbosity", "web_search_options", "moderation"})
"""Further parameters of OpenAI. Each changes the answer."""

ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

USED = frozenset(
    {
        "model",
        "messages",
        "prompt",
        "temperature",
        "top_p",
        "top_k",
        "max_tokens",
        "max_completion_tokens",
        "seed",
        "stop",
        "stream",
        "stream_options",
    }
)


class Question(NamedTuple):
    """What a client asks."""

    model: str
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    stop: tuple[str, ...]
    stream: bool
    with_usage: bool
    """Send the numbers of tokens at the end of a stream."""
    plain: bool
    """Continue the text of the one message, without the chat template."""


def read_chat(body: bytes) -> Question:
    """The body of a POST to `/v1/chat/completions`. Raises ApiError."""
    given = _read(body, USED - {"prompt"})
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise refused("messages", "must be a list of at least one message")
    return _question(given, tuple(_message(each, f"messages[{index}]") for index, each in enumerate(messages)))


def read_completion(body: bytes) -> Question:
    """The body of a POST to `/v1/completions`: a text to continue. Raises ApiError."""
    given = _read(body, USED - {"messages", "max_completion_tokens"})
    prompt = given.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise refused("prompt", "must be one text that is not empty")
    return _question(given, (ChatMessage("user", prompt),), plain=True)


def _read(body: bytes, used: frozenset[str]) -> dict[str, Any]:
    """The parameters that are used; one that is null is not given. Raises ApiError."""
    try:
        whole = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    if not isinstance(whole, dict):
        raise ApiError(400, "the body is not a JSON object")
    given = {name: value for name, value in whole.items() if value is not None}
    for name, value in given.items():
        if name in used or name in CHANGE_NOTHING or (name in NEUTRAL and _is_neutral(value, NEUTRAL[name])):
            continue
        if name in UNSUPPORTED or name in NEUTRAL:
            only = f", or give {_shown(NEUTRAL[name])}" if name in NEUTRAL else ""
            raise refused(name, f"is not supported. Leave it out{only}", "unsupported_parameter")
        raise refused(name, "is not a parameter that keepstep has. Leave it out", "unknown_parameter")
    return given


def _is_neutral(value: object, neutral: tuple[object, ...]) -> bool:
    """True if the value changes nothing; 0 is not False, and 1 is not True."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral)


def _shown(values: tuple[object, ...]) -> str:
    return " or ".join(msgspec.json.encode(value).decode() for value in values)


def _question(given: Mapping[str, Any], messages: tuple[ChatMessage, ...], *, plain: bool = False) -> Question:
    size = sum(len(each.content) for each in messages)
    if size > CHARACTERS_MAX:
        raise ApiError(400, f"the dialogue has {size:,} characters, more than any model takes", code="too_long")
    options = given.get("stream_options", {})
    if not isinstance(options, dict) or not options.keys() <= {"include_usage", "include_obfuscation"}:
        raise refused("stream_options", 'takes "include_usage" only')
    if options.get("include_obfuscation"):
        raise refused("stream_options.include_obfuscation", "is not supported. Leave it out", "unsupported_parameter")
    return Question(
        model=_typed(given, "model", str),
        messages=messages,
        sampling=_sampling(given),
        stop=_stop(given.get("stop", [])),
        stream=_typed(given, "stream", bool, False),
        with_usage=_typed(options, "include_usage", bool, False),
        plain=plain,
    )


def _sampling(given: Mapping[str, Any]) -> Sampling:
    limit = given.get("max_completion_tokens", given.get("max_tokens"))
    if given.get("max_tokens", limit) != limit:
        raise refused("max_tokens", "and max_completion_tokens differ. Give one of them")
    asked = {name: given[name] for name in ("temperature", "top_p", "top_k", "seed") if name in given}
    asked |= {} if limit is None else {"max_tokens": limit}
    seed = asked.get("seed")
    if type(seed) is int and -(2**63) <= seed < 2**63:
        asked["seed"] = seed % 2**62  # OpenAI takes negative ones too
    try:
        return msgspec.convert(asked, Sampling)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        raise refused(place.rstrip("`"), f"is wrong: {problem}") from error


def _stop(stop: object) -> tuple[str, ...]:
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or not all(isinstance(each, str) and each for each in texts):
        raise refused("stop", "must be a text that is not empty, or a list of such texts")
    if len(texts) > STOPS_MAX:
        raise refused("stop", f"has {len(texts)} texts; at most {STOPS_MAX} are taken")
    return tuple(texts)


def _typed(given: Mapping[str, Any], name: str, kind: type, default: object = None) -> Any:
    value = given.get(name, default)
    if type(value) is not kind or value == "":
        words = {str: "a text that is not empty", bool: "true or false"}
        raise refused(name, f"must be {words[kind]}")
    return value


def _message(message: object, place: str) -> ChatMessage:
    """A message. Parameters that are null or empty are not given: clients send answers back as they got them."""
    if not isinstance(message, dict):
        raise refused(place, "must be an object")
    given = {name: value for name, value in message.items() if value is not None and value != []}
    if more := given.keys() - {"role", "content"}:
        name = min(more)
        raise refused(f"{place}.{name}", "is not supported. Leave it out", "unsupported_parameter")
    role = ROLES.get(str(given.get("role")))
    if role is None:
        raise refused(f"{place}.role", f"is {given.get('role')!r}; keepstep takes {', '.join(ROLES)}")
    return ChatMessage(role, _content(given.get("content", ""), f"{place}.content"))


def _content(content: object, place: str) -> str:
    """The text of a message: a text, or parts of text, each on its own lines."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise refused(place, "must be a text, or a list of parts of text")
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str) or part.keys() - {"type", "text"}:
            raise refused(f"{place}[{index}]", 'must be {"type": "text", "text": "…"}: the model reads text only')
    return "\n".join(part["text"] for part in content)
