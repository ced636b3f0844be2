"""The messages of a row to those that chat templates take, and for each whether it is learned.

An assistant's message is learned unless its own flag says otherwise: OpenAI's `weight` (0 or 1), Axolotl's `train` or
`training` (a truth value). Nobody else's ever is, whatever its flag says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gpu.data.order import is_empty
from gpu.data.problems import Findings, kind_of
from gpu.data.tools import function_call, tool_calls

CALLING = "function_call"
"""A role of ShareGPT: the assistant, whose content is a call."""


class Keys(NamedTuple):
    """How a format calls things."""

    role: str
    content: str
    roles: Mapping[str, str]


OPENAI = Keys(
    "role",
    "content",
    {
        "system": "system",
        "developer": "system",  # what newer models of OpenAI call it; open templates do not know it
        "user": "user",
        "assistant": "assistant",
        "tool": "tool",
        "function": "tool",  # before there were several calls at once
    },
)

SHAREGPT = Keys(
    "from",
    "value",
    {
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "assistant": "assistant",
        "model": "assistant",
        "observation": "tool",
        "tool": "tool",
        "function_response": "tool",
        CALLING: CALLING,
        "tool_call": CALLING,
    },
)

_FLAGS = ("weight", "train", "training")
_KNOWN = {"name", "tool_calls", "tool_call_id", "function_call", *_FLAGS}
_EXPECTED = 'Expected: {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}.'


class Turns(NamedTuple):
    """As in `gpu.data.example.Example`."""

    messages: list[dict[str, Any]]
    train: list[bool]


def read_turns(value: Any, field: str, found: Findings, *, first: int = 1) -> Turns:
    """The messages in `value`; what is wrong with them goes to `found`. `first`: the number of the first one."""
    turns = Turns([], [])
    if value is None or value == []:
        found.add("missing_messages_list", f"there are no messages in {field!r}", "", _EXPECTED)
        return turns
    if not isinstance(value, list):
        what = f"{field!r} must be a list of messages, it is {kind_of(value)}"
        found.add("missing_messages_list", what, value, _EXPECTED)
        return turns
    keys = _keys(value)
    for number, message in enumerate(value, start=first):
        role = content = None
        if isinstance(message, dict) and len(message) == 2:
            role, content = message.get(keys.role), message.get(keys.content)
        if type(role) is str and type(content) is str and role != CALLING and (known := keys.roles.get(role)):
            # Nearly every message is just these two.
            if is_empty(known, content):
                _add_blank(number, message, found)
            turns.messages.append({"role": known, "content": content})
            turns.train.append(known == "assistant")
        else:
            _read_turn(message, f"message {number}", keys, found, turns)
    return turns


def _keys(messages: list[Any]) -> Keys:
    first = messages[0]
    return SHAREGPT if isinstance(first, dict) and "from" in first and "role" not in first else OPENAI


def _read_turn(message: Any, where: str, keys: Keys, found: Findings, turns: Turns) -> None:
    if not isinstance(message, dict):
        found.add("data_type", f"{where} must be an object, it is {kind_of(message)}", message, _EXPECTED)
        return
    named = message.get(keys.role)
    role = keys.roles.get(named) if isinstance(named, str) else None
    if named is None:
        found.add("message_missing_key", f"{where} has no {keys.role!r}", message, _EXPECTED)
    elif role is None:
        what = f"{where} has a {keys.role!r} that is none of {', '.join(keys.roles)}"
        found.add("unrecognized_role", what, named, "Correct the line or remove it.")
    strange = [key for key in message if key not in _KNOWN and key not in keys[:2]]
    if strange:
        advice = "It is left out. Put what is to be learned into the content."
        found.add("message_unrecognized_key", f"{where} has keys that mean nothing here", ", ".join(strange), advice)
    made: dict[str, Any] = {"role": "assistant" if role == CALLING else role, "content": ""}
    calls = _calls(message, role, where, keys, found)
    if role != CALLING:
        made["content"] = _content(message, role, where, keys, found)
    if calls:
        made["tool_calls"] = calls
    for key in ("name", "tool_call_id"):
        if isinstance(message.get(key), str):
            made[key] = message[key]
        elif message.get(key) is not None:
            found.add("bad_field", f"{key!r} of {where} must be a string", message[key], "Correct the line.")
    turns.messages.append(made)
    turns.train.append(_is_learned(message, made["role"], where, found))


def _calls(message: dict[str, Any], role: str | None, where: str, keys: Keys, found: Findings) -> list[dict[str, Any]]:
    if role == CALLING:
        if message.get(keys.content) is None:
            found.add("missing_content", f"{where} calls nothing", message, "Correct the line or remove it.")
        return function_call(message.get(keys.content), where, found)
    calls: list[dict[str, Any]] = []
    if message.get("tool_calls"):
        calls += tool_calls(message["tool_calls"], where, found)
    if message.get("function_call"):
        calls += function_call(message["function_call"], where, found)
    if calls and role not in ("assistant", None):
        found.add("bad_tool_call", f"{where} calls a tool, and is no assistant's", message, "Correct the line.")
    return calls


def _content(message: dict[str, Any], role: str | None, where: str, keys: Keys, found: Findings) -> str:
    """The text of a message: its string, or its text parts one behind the other."""
    content = message.get(keys.content)
    calls = bool(message.get("tool_calls") or message.get("function_call"))
    if keys.content not in message:
        if not calls:
            found.add("message_missing_key", f"{where} has no {keys.content!r}", message, _EXPECTED)
        return ""
    if content is None and calls:
        return ""
    if isinstance(content, list):
        content = _joined(content, where, found)
        if content is None:
            return ""
    if not isinstance(content, str):
        what = f"the content of {where} must be a string, it is {kind_of(content)}"
        found.add("missing_content", what, content, "Correct the line or remove it.")
        return ""
    if is_empty(role, content, calls=calls):
        _add_blank(int(where.rpartition(" ")[2]), message, found)
    return content


def _joined(parts: list[Any], where: str, found: Findings) -> str | None:
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None
        if not isinstance(text, str):
            what = f"the content of {where} has a part that is no text"
            found.add("unsupported_content", what, part, "Only text can be learned. Remove the part, or the line.")
            return None
        texts.append(text)
    return "".join(texts)


def _is_learned(message: dict[str, Any], role: str | None, where: str, found: Findings) -> bool:
    flags: dict[str, bool] = {}
    for name in _FLAGS:
        value = message.get(name)
        if value is None:
            continue
        if value not in (0, 1) or (name != "weight" and not isinstance(value, bool)):
            allowed = "0 or 1" if name == "weight" else "true or false"
            found.add("bad_train_flag", f"{name!r} of {where} must be {allowed}", value, "Correct the line.")
        else:
            flags[name] = bool(value)
    if len(set(flags.values())) > 1:
        found.add("bad_train_flag", f"the flags of {where} contradict each other", flags, "Leave one of them.")
    if role == "assistant":
        return all(flags.values())
    if any(flags.values()) and role is not None:
        what = f"{where} is flagged to be learned, but only what an assistant says is"
        found.add("train_flag_ignored", what, flags, "Take the flag away, or make it a row of `text`.")
    return False


def _add_blank(number: int, message: dict[str, Any], found: Findings) -> None:
    found.add("missing_content", f"message {number} says nothing", message, "Correct the line or remove it.")
