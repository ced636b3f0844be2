"""The Modelfile of a GGUF file: https://docs.ollama.com/modelfile.

Ollama does not read the chat template in the file: it takes the most similar one of its list, or none. So the
Modelfile has the template in Ollama's language (Go's text/template), found by rendering dialogues: what the chat
template writes before and after each message. It is used only if it reproduces every dialogue that is tried.

No torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import NamedTuple

Render = Callable[[Sequence[tuple[str, str]], bool], str]
"""Renders (role, text) of each message, and, if True, the beginning of an answer. Raises ValueError if the template
refuses."""

ROLES = ("system", "user", "assistant")

MARKS = ("⟦one⟧", "⟦two⟧", "⟦three⟧", "⟦four⟧")
"""Texts of messages. No template contains them."""

DATE = "strftime_now"
"""A chat template that writes the date; in a Modelfile it would stay the same for ever."""


class NotExpressible(ValueError):
    """The chat template cannot be written in Ollama's language by these rules."""


class Turns(NamedTuple):
    """A chat template that writes the messages one after the other."""

    start: str
    """Before the first message."""
    default_system: str
    """Instead of a system message, if the first message is none."""
    before: dict[str, str]
    after: dict[str, str]
    """By role. A role without an entry is refused by the template."""
    answer: str
    """Before the answer."""

    def render(self, messages: Sequence[tuple[str, str]]) -> str:
        """Return the prompt of a dialogue."""
        system = "" if messages[0][0] == "system" else self.default_system
        turns = "".join(self.before[role] + text + self.after[role] for role, text in messages)
        return self.start + system + turns + self.answer


def find_turns(render: Render, template: str = "", bos: str = "") -> Turns:
    """Return the parts of a chat template. `bos`: the text of the token that may begin a prompt.

    Raises NotExpressible.
    """
    if DATE in template:
        raise NotExpressible("it writes the date")
    try:
        turns = _find_turns(render, bos)
    except ValueError as error:
        if isinstance(error, NotExpressible):
            raise
        raise NotExpressible(f"it refuses a plain dialogue: {error}") from error
    _refuse_unless_equal(turns, render)
    return turns


def _find_turns(render: Render, bos: str) -> Turns:
    one, two, three, _ = MARKS
    head, between, middle, end = _split(render([("user", one), ("assistant", two), ("user", three)], True), 3)
    after_user = _split(render([("user", one)], False), 1)[1]
    after_assistant = _split(render([("user", one), ("assistant", two)], False), 2)[2]
    answer, before_assistant = _without(end, after_user), _without(between, after_user)
    before_user = _without(middle, after_assistant)
    if not head.endswith(before_user):
        raise NotExpressible("it begins the first message of the user differently")
    first = head.removesuffix(before_user)
    start = bos if first.startswith(bos) else ""
    before, after = {"user": before_user, "assistant": before_assistant}, {"user": after_user}
    after["assistant"] = after_assistant
    try:
        lead, inner, _ = _split(render([("system", one), ("user", two)], True), 2)
    except NotExpressible:
        raise
    except ValueError:  # it takes no system message
        return Turns(first, "", before, after, answer)
    if not inner.endswith(before_user):
        raise NotExpressible("it writes the system message into the user's")
    before["system"], after["system"] = _without(lead, start), inner.removesuffix(before_user)
    return Turns(start, first.removeprefix(start), before, after, answer)


def _without(text: str, start: str) -> str:
    """Return `text` without its start. Raises NotExpressible if it starts differently."""
    if not text.startswith(start):
        raise NotExpressible("it ends a message differently when another one follows")
    return text.removeprefix(start)


def _split(text: str, count: int) -> list[str]:
    """Return what stands before, between and after the first `count` marks."""
    found = []
    for mark in MARKS[:count]:
        if text.count(mark) != 1:
            raise NotExpressible("it writes a message twice, or not at all")
        before, _, text = text.partition(mark)
        found.append(before)
    return [*found, text]


def _refuse_unless_equal(turns: Turns, render: Render) -> None:
    """Raise NotExpressible unless `turns` renders every dialogue of up to four messages as the template does."""
    tried = 0
    for length in range(1, len(MARKS) + 1):
        for roles in product(ROLES, repeat=length):
            if roles[-1] != "user" or "system" in roles[1:] or _repeats(roles):
                continue  # a prompt ends with the user, and Ollama joins messages of one role
            messages = list(zip(roles, MARKS, strict=False))
            try:
                wanted = render(messages, True)
            except ValueError:
                continue  # Ollama's template cannot refuse
            if not {role for role, _ in messages} <= turns.before.keys() or turns.render(messages) != wanted:
                raise NotExpressible(f"it writes a dialogue of {', '.join(roles)} by other rules")
            tried += 1
    if not tried:
        raise NotExpressible("it refuses every dialogue")


def _repeats(roles: Sequence[str]) -> bool:
    return any(one == two for one, two in pairwise(roles))


def go_template(turns: Turns) -> str:
    """Return the template in Ollama's language: https://docs.ollama.com/template."""
    system = ""
    if turns.default_system:
        system = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{_text(turns.default_system)}{{{{ end }}}}'
    cases: list[str] = []
    for role in (role for role in ROLES if role in turns.before):
        word = "if" if not cases else "else if"
        end = _text(turns.after[role])
        # An answer that Ollama is to continue has no end yet.
        end = f"{{{{ if not $last }}}}{end}{{{{ end }}}}" if role == "assistant" and end else end
        cases.append(f'{{{{ {word} eq .Role "{role}" }}}}{_text(turns.before[role])}{{{{ .Content }}}}{end}')
    answer = f'{{{{ if and $last (ne .Role "assistant") }}}}{_text(turns.answer)}{{{{ end }}}}' if turns.answer else ""
    last = "{{ $last := eq (len (slice $.Messages $i)) 1 }}"
    loop = "{{ range $i, $_ := .Messages }}" + last + "".join(cases) + "{{ end }}" + answer + "{{ end }}"
    return _text(turns.start) + system + loop


def _text(text: str) -> str:
    """Return `text` as a string of Go in a template: no character of it can end the template or the Modelfile."""
    if not text:
        return ""
    return "{{ " + json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f") + " }}"


def modelfile(file: str, template: str, stops: Sequence[str], system: str = "") -> str:
    """Return the Modelfile. `template`: in Ollama's language. `system`: a system prompt."""
    lines = [f"FROM ./{file}", f'TEMPLATE """{template}"""']
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    if system:
        lines.append(f'SYSTEM """{system}"""')
    return "\n".join([*lines, ""])
