"""Check the order of a conversation: the roles take turns, no turn is empty, and tools answer the calls that were made.

keepstep could train a row with these problems; whether it does depends on what the row would teach.
"""

from __future__ import annotations

from typing import Any

from gpu.data.problems import Findings

_ADVICE = "Correct the row or remove it."


def is_blank(role: str | None, content: str, *, calls: bool = False) -> bool:
    """True if a message of the user, or of an assistant that calls no tool, is empty. Every format uses this rule.

    A model that is trained on an empty answer ends its turn at once; an empty question has no answer.
    """
    return role in ("user", "assistant") and not calls and (not content or content.isspace())


def check_order(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, found: Findings) -> None:
    """Add to `found` what is unusual in the order of `messages`, which have the form of an Example."""
    before, begun = None, False
    calls = _Calls(tools, found)
    for number, message in enumerate(messages, start=1):
        role = message["role"]
        if role == "tool":
            calls.answer(number, message)
        else:
            calls.end(number)
        if role == "system":
            if before not in (None, "system"):
                what = f"message {number} is a system message after other messages"
                found.add(
                    "system_not_first",
                    what,
                    message["content"],
                    "Many chat templates move it to the front, or refuse it. Put it first.",
                )
        elif role == "assistant" and not begun:
            advice = "Put a user message before it, or write the row as `text`."
            found.add("assistant_first", "the conversation begins with the assistant", message["content"], advice)
        elif role == before and role != "tool":
            what = f"messages {number - 1} and {number} both have the role {role}"
            found.add(
                "same_role_twice",
                what,
                message["content"],
                "Many chat templates expect the roles to alternate. Join them if they belong together.",
            )
        if "tool_calls" in message:
            calls.made(number, message["tool_calls"])
        before, begun = role, begun or role != "system"


class _Calls:
    """The calls of the last message that made some, and those that still have no answer."""

    def __init__(self, tools: list[dict[str, Any]] | None, found: Findings) -> None:
        self._names = None if tools is None else {tool["function"]["name"] for tool in tools}
        self._found = found
        self._open = False
        self._unanswered: list[str | None] = []
        """Ids of the calls; None for a call without one."""

    def made(self, number: int, calls: list[dict[str, Any]]) -> None:
        self._open = True
        for call in calls:
            name, identifier = call["function"]["name"], call.get("id")
            if self._names is not None and name not in self._names:
                what = f"message {number} calls {name!r}, but the row declares only"
                self._found.add(
                    "undeclared_tool", what, ", ".join(sorted(self._names)), ("Declare the tool, or correct the call.")
                )
            if identifier is not None and identifier in self._unanswered:
                what = f"message {number} makes two calls with the same id"
                self._found.add("duplicate_tool_call_id", what, identifier, "Give each call its own id.")
            self._unanswered.append(identifier)

    def answer(self, number: int, message: dict[str, Any]) -> None:
        identifier = message.get("tool_call_id")
        if not self._open:
            what = f"message {number} is a tool's answer, but no tool was called"
            self._found.add("tool_without_call", what, message["content"], _ADVICE)
        elif identifier is None:
            self._unanswered = self._unanswered[1:]  # without ids, answers follow the order of the calls
        elif identifier in self._unanswered:
            self._unanswered.remove(identifier)
        elif None in self._unanswered:
            self._unanswered.remove(None)  # a call without an id matches any answer
        else:
            what = f"message {number} answers a call that does not exist or already has an answer"
            self._found.add("unknown_tool_call_id", what, identifier, "Give it the id of the call that it answers.")

    def end(self, number: int) -> None:
        """Report unanswered calls before a message that is not a tool's."""
        if self._unanswered:
            what = f"message {number} follows a tool call that has no answer"
            self._found.add("unanswered_tool_call", what, self._unanswered[0] or "", "Put the tool's answer before it.")
        self._open, self._unanswered = False, []
