"""Who speaks when, and whether he says anything: the order of the roles, and that tools answer the calls made.

What is found here can be learned all the same; whether it is depends on what it teaches.
"""

from __future__ import annotations

from typing import Any

from gpu.data.format.problems import Findings

_ADVICE = "Correct the line or remove it."


def is_empty(role: str | None, content: str, *, calls: bool = False) -> bool:
    """Whether a message has nothing in it though somebody speaks: a user, or an assistant who calls no tool.

    The one rule for every format. Trained on an empty answer, a model ends its turn at once; an empty question has no
    answer.
    """
    return role in ("user", "assistant") and not calls and (not content or content.isspace())


def check_order(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, found: Findings) -> None:
    """Tell `found` what is unusual in the order of `messages`, as they are in an Example."""
    before, begun = None, False
    calls = _Calls(tools, found)
    for number, message in enumerate(messages, start=1):
        role = message["role"]
        if role == "tool":
            calls.answered(number, message)
        else:
            calls.passed(number)
        if role == "system":
            if before not in (None, "system"):
                what = f"message {number} is the system's, behind others"
                found.add("system_not_first", what, message["content"], "Many templates put it first, or refuse it.")
        elif role == "assistant" and not begun:
            advice = "Put a user's message before it; or is it a row of `text`?"
            found.add("assistant_first", "the assistant speaks first", message["content"], advice)
        elif role == before and role != "tool":
            what = f"messages {number - 1} and {number} are both the {role}'s"
            found.add("same_role_twice", what, message["content"], "Many templates expect them to take turns.")
        if "tool_calls" in message:
            calls.made(number, message["tool_calls"])
        before, begun = role, begun or role != "system"


class _Calls:
    """The calls of the last message that made some, and which of them wait for an answer."""

    def __init__(self, tools: list[dict[str, Any]] | None, found: Findings) -> None:
        self._names = None if tools is None else {tool["function"]["name"] for tool in tools}
        self._found = found
        self._open = False
        self._unanswered: list[str | None] = []
        """Their ids, None of one that has none."""

    def made(self, number: int, calls: list[dict[str, Any]]) -> None:
        self._open = True
        for call in calls:
            name, identifier = call["function"]["name"], call.get("id")
            if self._names is not None and name not in self._names:
                what = f"message {number} calls {name!r}, which is not among the declared tools"
                self._found.add("undeclared_tool", what, ", ".join(sorted(self._names)), "Declare it, or correct it.")
            if identifier is not None and identifier in self._unanswered:
                what = f"message {number} makes two calls with the same id"
                self._found.add("duplicate_tool_call_id", what, identifier, "Give each its own.")
            self._unanswered.append(identifier)

    def answered(self, number: int, message: dict[str, Any]) -> None:
        identifier = message.get("tool_call_id")
        if not self._open:
            what = f"message {number} is a tool's, and nothing was called"
            self._found.add("tool_without_call", what, message["content"], _ADVICE)
        elif identifier is None:
            self._unanswered = self._unanswered[1:]  # in the order of the calls, then
        elif identifier in self._unanswered:
            self._unanswered.remove(identifier)
        elif None in self._unanswered:
            self._unanswered.remove(None)  # the call has no id that this one could differ from
        else:
            what = f"message {number} answers a call that is not there, or was answered"
            self._found.add("unknown_tool_call_id", what, identifier, "Give it the id of the call that it answers.")

    def passed(self, number: int) -> None:
        """Somebody else than a tool speaks."""
        if self._unanswered:
            what = f"message {number} goes on although a call before it has no answer"
            self._found.add(
                "unanswered_tool_call", what, self._unanswered[0] or "", "Put the tool's message before it."
            )
        self._open, self._unanswered = False, []
