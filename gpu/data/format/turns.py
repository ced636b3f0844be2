"""Parse the messages of a row into those that chat templates take, and decide for each whether it is trained.

An assistant's message is trained unless its own flag says otherwise; `gpu.data.format.keys` lists the flags of all
trainers. No other message is trained, whatever its flag says. Reasoning, under any of its names or as a part of the
content, becomes `reasoning_content`, the name that transformers passes to templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gpu.data.format.key_tables import MESSAGE_KEYS, REASONING
from gpu.data.format.keys import FLAGS, INVERSE_FLAGS, check_message_keys
from gpu.data.format.role_order import is_blank
from gpu.data.format.tools import parse_function_call, parse_tool_calls
from gpu.data.problems import Findings, type_name

CALLING = "function_call"
"""A role of ShareGPT: an assistant message whose content is a call."""


class MessageKeys(NamedTuple):
    """The names that a format uses for roles and contents."""

    role: str
    content: str
    roles: Mapping[str, str]


OPENAI_KEYS = MessageKeys(
    "role",
    "content",
    {
        "system": "system",
        "developer": "system",  # OpenAI's newer name; open templates do not know it
        "user": "user",
        "assistant": "assistant",
        "tool": "tool",
        "function": "tool",  # OpenAI's older name
        "ipython": "tool",  # Llama 3
        "tool_response": "tool",  # ms-swift
        "tool_call": CALLING,
    },
)

SHAREGPT_KEYS = MessageKeys(
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
        "tool_response": "tool",
        "System": "system",  # NeMo
        "User": "user",
        "Assistant": "assistant",
        CALLING: CALLING,
        "tool_call": CALLING,
    },
)

_TEXT_PARTS = (None, "text", "input_text", "output_text")
"""Types of content parts that are text: OpenAI's chat and responses formats."""

_REASONING_PARTS = ("thinking", "reasoning", "thought")
"""Types of content parts that are the reasoning before an answer: Mistral, Anthropic, OpenAI-compatible servers."""

_EXPECTED = 'Expected: {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}.'


class Turns(NamedTuple):
    """Messages and train flags, as in `gpu.data.format.example.Example`."""

    messages: list[dict[str, Any]]
    train: list[bool]


def parse_messages(value: Any, field: str, found: Findings, *, first: int = 1) -> Turns:
    """Parse the messages in `value`; `found` gets the problems. `first`: the number of the first message."""
    turns = Turns([], [])
    if value is None or value == []:
        found.add("missing_messages_list", f"the field {field!r} has no messages", "", _EXPECTED)
        return turns
    if not isinstance(value, list):
        what = f"the field {field!r} must be a list of messages, but it is {type_name(value)}"
        found.add("missing_messages_list", what, value, _EXPECTED)
        return turns
    keys = _keys(value)
    for number, message in enumerate(value, start=first):
        role = content = None
        if isinstance(message, dict) and len(message) == 2:
            role, content = message.get(keys.role), message.get(keys.content)
        if type(role) is str and type(content) is str and role != CALLING and (known := keys.roles.get(role)):
            # Fast path: nearly every message has only these two keys.
            if is_blank(known, content):
                _report_blank(number, message, found)
            turns.messages.append({"role": known, "content": content})
            turns.train.append(known == "assistant")
        else:
            _parse_message(message, f"message {number}", keys, found, turns)
    return turns


def _keys(messages: list[Any]) -> MessageKeys:
    first = messages[0]
    return SHAREGPT_KEYS if isinstance(first, dict) and "from" in first and "role" not in first else OPENAI_KEYS


def _parse_message(message: Any, where: str, keys: MessageKeys, found: Findings, turns: Turns) -> None:
    if not isinstance(message, dict):
        found.add("data_type", f"{where} must be an object, but it is {type_name(message)}", message, _EXPECTED)
        return
    named = message.get(keys.role)
    role = keys.roles.get(named) if isinstance(named, str) else None
    if named is None:
        found.add("message_missing_key", f"{where} has no {keys.role!r}", message, _EXPECTED)
    elif role is None:
        what = f"{where} has an unknown {keys.role!r}; known are {', '.join(keys.roles)}"
        found.add("unrecognized_role", what, named, "Correct the row or remove it.")
    check_message_keys(message, keys[:2], where, found)
    made: dict[str, Any] = {"role": "assistant" if role == CALLING else role, "content": ""}
    calls = _calls(message, role, where, keys, found)
    reasoning = [_reasoning(message, where, found)]
    if role != CALLING:
        made["content"] = _content(message, role, where, keys, found, reasoning)
    thoughts = "\n".join(dict.fromkeys(filter(None, reasoning)))
    if thoughts and role in ("assistant", CALLING):
        made["reasoning_content"] = thoughts
    elif thoughts:
        what = f"{where} has reasoning, but it is not an assistant message"
        found.add(
            "message_unrecognized_key", what, thoughts, "keepstep ignores the reasoning. Put it into the content."
        )
    if calls:
        made["tool_calls"] = calls
    for key in ("name", "tool_call_id"):
        if isinstance(message.get(key), str):
            made[key] = message[key]
        elif message.get(key) is not None:
            found.add("bad_field", f"{key!r} of {where} must be a string", message[key], "Correct the row.")
    turns.messages.append(made)
    turns.train.append(_is_trained(message, made["role"], where, found))


def _calls(
    message: dict[str, Any], role: str | None, where: str, keys: MessageKeys, found: Findings
) -> list[dict[str, Any]]:
    if role == CALLING:
        if message.get(keys.content) is None:
            found.add("missing_content", f"{where} has no call", message, "Correct the row or remove it.")
        return parse_function_call(message.get(keys.content), where, found)
    calls: list[dict[str, Any]] = []
    if message.get("tool_calls"):
        calls += parse_tool_calls(message["tool_calls"], where, found)
    if message.get("function_call"):
        calls += parse_function_call(message["function_call"], where, found)
    if calls and role not in ("assistant", None):
        found.add(
            "bad_tool_call", (f"{where} calls a tool, but it is not an assistant message"), message, "Correct the row."
        )
    return calls


def _reasoning(message: dict[str, Any], where: str, found: Findings) -> str:
    """Return the reasoning of a message, from the keys that may have it; "" if it has none."""
    given = {name: value for name in REASONING if (value := message.get(name))}
    texts = {_text_of(value) for value in given.values()}
    if None in texts:
        found.add("bad_field", f"the reasoning of {where} must be a string", given, "Correct the row.")
    elif len(texts) > 1:
        what = f"the fields {', '.join(map(repr, given))} of {where} contain different reasoning"
        found.add("bad_field", what, given, "Keep one of them.")
    return next((text for text in texts if text), "")


def _text_of(value: Any) -> str | None:
    """Return a string, or a list of text parts as one string; None for anything else."""
    if isinstance(value, list):
        texts = [_text_of(part.get("text")) if isinstance(part, dict) else None for part in value]
        return None if None in texts else "".join(text or "" for text in texts)
    return value if isinstance(value, str) else None


def _content(
    message: dict[str, Any], role: str | None, where: str, keys: MessageKeys, found: Findings, reasoning: list[str]
) -> str:
    """Return the text of a message: its string, or its text parts joined. `reasoning` gets the parts that are
    reasoning."""
    content = message.get(keys.content)
    calls = bool(message.get("tool_calls") or message.get("function_call"))
    if keys.content not in message:
        if not calls:
            found.add("message_missing_key", f"{where} has no {keys.content!r}", message, _EXPECTED)
        return ""
    if content is None and calls:
        return ""
    if isinstance(content, list):
        content = _join_parts(content, where, found, reasoning)
        if content is None:
            return ""
    if not isinstance(content, str):
        what = f"the content of {where} must be a string, but it is {type_name(content)}"
        found.add("missing_content", what, content, "Correct the row or remove it.")
        return ""
    if is_blank(role, content, calls=calls):
        _report_blank(int(where.rpartition(" ")[2]), message, found)
    return content


def _join_parts(parts: list[Any], where: str, found: Findings, reasoning: list[str]) -> str | None:
    texts: list[str] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else ""
        thinks = kind in _REASONING_PARTS
        names = (*_REASONING_PARTS, "text") if thinks else ("text", "value", "content")
        named = (_text_of(part[name]) for name in names if part.get(name) is not None) if isinstance(part, dict) else ()
        candidates = {text for text in named if text is not None}
        text = candidates.pop() if len(candidates) == 1 else None
        others = part.keys() - {"type", *names} if isinstance(part, dict) else set()
        if flags := {
            name: part[name] for name in others if name in (*FLAGS, *INVERSE_FLAGS) and part[name] is not None
        }:
            what = f"a part of the content of {where} has a train flag"
            found.add(
                "bad_train_flag", what, flags, ("keepstep trains a message whole or not at all. Split the message.")
            )
        if text is None or not (thinks or kind in _TEXT_PARTS) or any(_is_media(name, part[name]) for name in others):
            what = f"the content of {where} has a part that is not text"
            found.add("unsupported_content", what, part, "keepstep trains only text. Remove the part, or the row.")
            return None
        (reasoning if thinks else texts).append(text)
    return "".join(texts)


def _is_media(name: str, value: Any) -> bool:
    key = next((key for key in MESSAGE_KEYS if name in key.names and key.problem == "unsupported_content"), None)
    return key is not None and key.has_effect(value)


def _is_trained(message: dict[str, Any], role: str | None, where: str, found: Findings) -> bool:
    flags: dict[str, bool] = {}
    for name in (*FLAGS, *INVERSE_FLAGS):
        value = message.get(name)
        if value is None:
            continue
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            what = f"{name!r} of {where} must be true, false, 1 or 0"
            found.add("bad_train_flag", what, value, "keepstep trains a message whole or not at all. Correct the row.")
        else:
            flags[name] = bool(value) != (name in INVERSE_FLAGS)
    if len(set(flags.values())) > 1:
        what = f"the flags of {where} contradict each other"
        found.add("bad_train_flag", what, {name: message[name] for name in flags}, "Keep one of them.")
    if role == "assistant":
        return all(flags.values())
    if any(flags.values()) and role is not None:
        if set(flags) <= set(INVERSE_FLAGS):
            return False  # torchtune writes "not masked" for user messages by default
        what = f"{where} has a train flag, but keepstep trains only assistant messages"
        found.add("train_flag_ignored", what, flags, "Remove the flag, or write the row as `text`.")
    return False


def _report_blank(number: int, message: dict[str, Any], found: Findings) -> None:
    found.add("missing_content", f"message {number} is empty", message, "Correct the row or remove it.")
