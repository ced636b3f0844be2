"""The formats: how keepstep recognises each by the fields of a row, and how it makes an example of such a row.

FORMATS is the table; a row has the first format in it whose fields it has. Fields that no trainer gives a meaning (an
id, a source, a score) are ignored; those that change what is trained are in `gpu.data.format.keys`, and each is read,
refused or warned of. `docs/reference/data-formats.md` says the same for people, with examples that are tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from events.settings import DataSettings
from gpu.data.format.context import (
    CONTEXT,
    CORRECT,
    Fields,
    add_missing,
    names_of,
    system_prompt,
    template_kwargs,
    tools_of,
)
from gpu.data.format.example import Example, Row, Text
from gpu.data.format.key_tables import is_empty
from gpu.data.format.keys import FLAGS, TOKEN_MASKS, check_row_keys, is_preference
from gpu.data.format.problems import Findings, kind_of
from gpu.data.format.role_order import check_order
from gpu.data.format.role_order import is_empty as says_nothing
from gpu.data.format.token_rows import read_tokens
from gpu.data.format.tools import declared_tools
from gpu.data.format.turns import Turns, read_turns

_PAIR = (False, True)


@dataclass(frozen=True)
class Format:
    """One of the formats. `needs`: one of each of these groups of fields."""

    name: str
    shown: str
    needs: tuple[tuple[str, ...], ...]
    read: Callable[[Fields, Findings], Row | None]
    reads: frozenset[str] = frozenset()
    """All fields that `read` looks at, those of `needs` too."""

    def fits(self, fields: Fields) -> bool:
        """Whether a row has what the format needs."""
        for group in self.needs:
            for name in group:
                if name in fields:
                    break
            else:
                return False
        return True


def recognise(fields: Fields, found: Findings) -> Format | None:
    """The format that a row has by its fields; None, and a problem in `found`: it has none that can be learned."""
    for one in FORMATS.values():
        if one.needs and one.fits(fields):
            return one
    if is_preference(fields):
        check_row_keys(fields, frozenset(), found)
        return None
    pair = next((pair for pair in _OTHER_PAIRS if pair[0] in fields and pair[1] in fields), None)
    known = "; ".join(one.shown for one in FORMATS.values() if one.needs)
    advice = (
        f'Set [data] prompt = "{pair[0]}" and completion = "{pair[1]}" in keepstep.toml.'
        if pair
        else f"Known formats: {known}. Or name your own fields in keepstep.toml: [data] prompt = …, completion = …"
    )
    found.add("unknown_format", "rows of no known format; the fields are", names_of(fields), advice)
    return None


def format_of(name: str, settings: DataSettings) -> Format:
    """The format called `name`, with the names of fields that the settings give."""
    if name == "prompt_completion" and (settings.prompt is not None or settings.completion is not None):
        return _mapped(settings.prompt or "prompt", settings.completion or "completion")
    return FORMATS[name]


@lru_cache(maxsize=8)
def _mapped(prompt: str, completion: str) -> Format:
    read = partial(_prompt_completion, names=(prompt, completion))
    reads = frozenset({prompt, completion, *CONTEXT, "history"})
    return Format("prompt_completion", f"{prompt} + {completion}", ((prompt,), (completion,)), read, reads)


def read_fields(fields: Fields, form: Format, found: Findings) -> Row | None:
    """The row, and what is wrong with it in `found`. A row that can be made is returned with problems, too."""
    if len(fields) > len(form.needs):
        _check_other_formats(fields, form, found)
        check_row_keys(fields, form.reads, found, judges_answers=form.name not in ("text", "plain_text", "tokens"))
    row = form.read(fields, found)
    return None if row is None or found.broken else row


def _check_other_formats(fields: Fields, form: Format, found: Findings) -> None:
    """Warn where a row could be read as another format, too: Alpaca's files have their rows as `text` as well."""
    for other in FORMATS.values():
        needed = {name for group in other.needs for name in group if name in fields}
        if other.needs and other.name not in (form.name, "tokens") and other.fits(fields) and not needed <= form.reads:
            left_out = ", ".join(sorted(needed - form.reads))
            what = f"the row is read as {form.name}, and what it has as {other.name} is left out"
            advice = f'Set [data] format = "{other.name}" in keepstep.toml to read that; or remove it.'
            found.add("row_key_ignored", what, left_out, advice)


_OTHER_PAIRS = (
    ("question", "answer"),
    ("prompt", "response"),
    ("query", "response"),
    ("question", "response"),
    ("input", "output"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("source", "target"),
)
"""Common names of a question and its answer that belong to no format; they are suggested, never taken."""


# -- messages -------------------------------------------------------------------------------------------------------


def _messages(fields: Fields, found: Findings) -> Row | None:
    return _conversation(fields, "messages", found)


def _sharegpt(fields: Fields, found: Findings) -> Row | None:
    return _conversation(fields, "conversations" if "conversations" in fields else "conversation", found)


def _conversation(fields: Fields, name: str, found: Findings) -> Row | None:
    if name not in fields:
        expected = 'Expected: {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}.'
        found.add("missing_messages_list", f"the field {name!r} is missing; there are", names_of(fields), expected)
        return None
    turns = read_turns(fields[name], name, found)
    return _example(_with_system(turns, fields, found), fields, found)


def _with_system(turns: Turns, fields: Fields, found: Findings) -> Turns:
    """The messages after the system prompt that the row has besides them."""
    system = system_prompt(fields, found)
    if not system:
        return turns
    first = turns.messages[0] if turns.messages else {}
    if first.get("role") == "system":
        if first["content"] != system:
            what = "the row has two system prompts, and its messages begin with the second"
            found.add("bad_field", what, [system, first["content"]], "Keep one of them.")
        return turns
    return Turns([{"role": "system", "content": system}, *turns.messages], [False, *turns.train])


def _example(turns: Turns, fields: Fields, found: Findings) -> Row | None:
    messages, train = turns
    tools = tools_of(fields, found)
    made = declared_tools(tools, found) if tools else None
    kwargs = template_kwargs(fields, found) if "chat_template_kwargs" in fields else None
    if True not in train and messages:
        roles = [message["role"] for message in messages]
        if None in roles:
            pass  # one that is not known, which is told already: it may have been meant to be an assistant's
        elif "assistant" not in roles:
            what = "there is no message of an assistant to learn"
            found.add("example_missing_assistant_message", what, messages, "Add the answer, or remove the line.")
        else:
            what = "no message of this row is to be learned, by their own flags"
            found.add("no_trainable_tokens", what, messages, "Set weight or train of one, or remove the line.")
    if found.broken:
        return None
    check_order(messages, made, found)
    return Example(found.line, messages, tuple(train), made, template_kwargs=kwargs)


# -- a question and its answer --------------------------------------------------------------------------------------


def _prompt_completion(
    fields: Fields, found: Findings, names: tuple[str, str] = ("prompt", "completion")
) -> Row | None:
    prompt, completion = fields.get(names[0]), fields.get(names[1])
    if type(prompt) is str and type(completion) is str:
        return _answered(prompt, completion, names, fields, found)
    for name in names:
        if name not in fields:
            add_missing(name, fields, found)
    if found.broken:
        return None
    if isinstance(prompt, list) and isinstance(completion, list):
        before = read_turns(prompt, names[0], found)
        after = read_turns(completion, names[1], found, first=len(prompt) + 1)
        if not found.broken and not any(message["role"] == "assistant" for message in after.messages):
            what = f"there is no message of an assistant in {names[1]!r} to learn"
            found.add("example_missing_assistant_message", what, completion, "Add the answer, or remove the line.")
        if any(isinstance(message, dict) and any(message.get(flag) for flag in FLAGS) for message in prompt):
            what = f"a message of {names[0]!r} is flagged to be trained, but only {names[1]!r} is"
            found.add("train_flag_ignored", what, prompt, "Move it, or make the row one of `messages`.")
        turns = Turns(before.messages + after.messages, [False] * len(before.train) + after.train)
        return _example(_with_system(turns, fields, found), fields, found)
    for name, value in zip(names, (prompt, completion), strict=True):
        if not isinstance(value, str):
            what = f"the field {name!r} must be a string as the other one is, it is {kind_of(value)}"
            if (
                isinstance(value, list)
                or not isinstance(prompt, (str, list))
                or not isinstance(completion, (str, list))
            ):
                what = f"the field {name!r} must be a string (or both a list of messages), it is {kind_of(value)}"
            found.add("bad_field", what, value, CORRECT)
    return None


def _pair(prompt: str, completion: str, names: tuple[str, str], found: Findings) -> Example | None:
    if says_nothing("assistant", completion):
        found.add("bad_field", f"the field {names[1]!r} says nothing, so there is nothing to train", prompt, CORRECT)
        return None
    if says_nothing("user", prompt):
        what = f"the field {names[0]!r} says nothing, so the completion is trained as text, without the chat template"
        found.add("empty_prompt", what, completion, "Write the prompt, if there is one; or make it a row of `text`.")
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return Example(found.line, messages, _PAIR, None, True)


def _instruction(fields: Fields, found: Findings) -> Row | None:
    """Alpaca's, with what others added: `system` and `history` (LLaMA-Factory), `context` and `response` (Dolly)."""
    extra_name = "input" if fields.get("input") else "context"
    answer_name = "output" if "output" in fields or "response" not in fields else "response"
    instruction, answer = _string("instruction", fields, found), _string(answer_name, fields, found)
    extra = _string(extra_name, fields, found) if fields.get(extra_name) is not None else ""
    if found.broken:
        return None
    for one, other in (("input", "context"), ("output", "response")):
        if fields.get(one) and fields.get(other) and fields[one] != fields[other]:
            what = f"the row has both {one!r} and {other!r}, and only one of them would be trained"
            found.add("bad_field", what, [fields[one], fields[other]], "Keep one of them, or join them.")
    prompt = "\n\n".join(part for part in (instruction, extra) if part)
    if says_nothing("user", prompt):
        found.add("bad_field", "the field 'instruction' says nothing", answer, CORRECT)
        return None
    return _answered(prompt, answer, ("instruction", answer_name), fields, found)


def _answered(prompt: str, answer: str, names: tuple[str, str], fields: Fields, found: Findings) -> Row | None:
    """A question and its answer, after the system prompt and the history that the row has."""
    if len(fields) == 2:  # nearly every row
        return _pair(prompt, answer, names, found)
    system = system_prompt(fields, found)
    history = [] if is_empty(fields.get("history")) else fields["history"]
    if not isinstance(history, list) or not all(map(_is_pair, history)):
        what = "the field 'history' must be a list of pairs, each a question and its answer"
        found.add("bad_field", what, history, 'Expected: "history": [["…", "…"], …].')
        return None
    if not system and not history and tools_of(fields, found) is None:
        row = _pair(prompt, answer, names, found)
        kwargs = template_kwargs(fields, found)
        return row if row is None or kwargs is None else replace(row, template_kwargs=kwargs)
    pairs = [*history, (prompt, answer)]
    for number, pair in enumerate(pairs, start=1):
        places = (
            (f"the field {names[0]!r}", f"the field {names[1]!r}")
            if number == len(pairs)
            else (f"the question of pair {number} in 'history'", f"the answer of pair {number} in 'history'")
        )
        for role, place, content in zip(("user", "assistant"), places, pair, strict=True):
            if says_nothing(role, content):
                found.add("bad_field", f"{place} says nothing", pair, CORRECT)
    if found.broken:
        return None
    messages = [{"role": "system", "content": system}] if system else []
    for question, reply in pairs:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return _example(Turns(messages, [message["role"] == "assistant" for message in messages]), fields, found)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(part, str) for part in value)


# -- text and tokens ------------------------------------------------------------------------------------------------


def _text(fields: Fields, found: Findings) -> Row | None:
    text = _string("text", fields, found)
    if not found.broken and says_nothing("assistant", text):
        found.add("bad_field", "the field 'text' says nothing, so there is nothing to train", "", CORRECT)
    return None if found.broken else Text(found.line, text)


def _plain_text(fields: Fields, found: Findings) -> Row | None:
    return Text(found.line, fields["text"])


# -- fields ---------------------------------------------------------------------------------------------------------


def _string(name: str, fields: Fields, found: Findings) -> str:
    if name not in fields:
        add_missing(name, fields, found)
        return ""
    value = fields[name]
    if not isinstance(value, str):
        found.add("bad_field", f"the field {name!r} must be a string, it is {kind_of(value)}", value, CORRECT)
        return ""
    return value


_ALPACA = ("instruction", "input", "context", "output", "response", "history")


def _format(
    name: str,
    shown: str,
    needs: tuple[tuple[str, ...], ...],
    read: Callable[[Fields, Findings], Row | None],
    *others: str,
) -> Format:
    return Format(name, shown, needs, read, frozenset({*(field for group in needs for field in group), *others}))


FORMATS = {
    one.name: one
    for one in (
        _format("messages", "messages (role, content)", (("messages",),), _messages, *CONTEXT),
        _format("sharegpt", "conversations (from, value)", (("conversations", "conversation"),), _sharegpt, *CONTEXT),
        _format(
            "prompt_completion",
            "prompt + completion",
            (("prompt",), ("completion",)),
            _prompt_completion,
            *CONTEXT,
            "history",
        ),
        _format(
            "instruction",
            "instruction (+ input) + output",
            (("instruction",), ("output", "response")),
            _instruction,
            *CONTEXT,
            *_ALPACA,
        ),
        _format(
            "tokens",
            "input_ids (+ labels)",
            (("input_ids",),),
            read_tokens,
            *("labels", "attention_mask", *TOKEN_MASKS),
        ),
        _format("text", "text", (("text",),), _text),
        _format("plain_text", "plain text, where keepstep.toml says so", (), _plain_text, "text"),
    )
}
