"""Judge an answer of the model: by a rule of `events.matching`, or by a person's program.

A program gets one JSON object on its standard input: `prompt` (the last message), `messages`, `expected`, `answer`.
Exit code 0: the answer is right; 1: it is wrong. Anything else is a problem, and the answer is not judged. So is a
traceback: Python ends with exit code 1 after an error too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from events.generation import ChatMessage
from events.matching import Verifier, matches
from gpu.evaluation.program import TIMEOUT_S, describe_code, run_program, split_command

RIGHT, WRONG = 0, 1
"""Exit codes of a program."""

_TRACEBACK = "Traceback (most recent call last)"


class Check(NamedTuple):
    """How an answer is judged."""

    match: Verifier = "normalized"
    pattern: str = ""
    """The regular expression of `regex`."""
    command: str = ""
    """The command line of `command`; `gpu.evaluation.program.split_command` splits it."""
    timeout_s: float = TIMEOUT_S
    think_tag: str = "<think>"


class Judgement(NamedTuple):
    """The result of a check."""

    right: bool | None
    """None: the answer could not be judged."""
    problem: str = ""
    """Why not, a clause: "it ended with exit code 3: …"."""


def judge(
    check: Check,
    messages: Sequence[ChatMessage],
    expected: str,
    answer: str,
    root: Path,
    on_wait: Callable[[], None] = lambda: None,
) -> Judgement:
    """Judge one answer to a dialogue. `root`: the home, where a command's `./` begins. `on_wait` is called about every
    second while a program runs.

    Raises re.error for a pattern that is no regular expression, and what `on_wait` raises.
    """
    if check.match != "command":
        return Judgement(matches(check.match, answer, expected, pattern=check.pattern, think_tag=check.think_tag))
    given = {
        "prompt": messages[-1].content if messages else "",
        "messages": [{"role": each.role, "content": each.content} for each in messages],
        "expected": expected,
        "answer": answer,
    }
    try:
        command = split_command(check.command, root)
    except ValueError as error:
        return Judgement(None, f"the command cannot be split into words: {error}")
    end = run_program(command, json.dumps(given) + "\n", check.timeout_s, on_wait)
    if end.code == RIGHT or (end.code == WRONG and _TRACEBACK not in end.error):
        return Judgement(end.code == RIGHT)
    problem = end.problem if end.code is None else describe_code(end.code)
    last = end.error.splitlines()[-1] if end.error else ""
    return Judgement(None, f"{problem}: {last}" if last else problem)
