"""The formats: how keepstep recognises each by the fields of a row, and how it parses such a row into an example.

FORMATS is the table; a row has the first format in it whose fields it has. Fields to which no trainer gives a meaning
(an id, a source, a score) are ignored. `gpu.data.format.key_tables` lists the fields that change what is trained; each
is read, refused or reported. `docs/reference/data-formats.md` explains the formats, and a test parses its examples.
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
    add_missing_field,
    declared_tools_field,
    field_names,
    system_prompt,
    template_kwargs,
)
from gpu.data.format.example import Example, Row, Text
from gpu.data.format.key_tables import is_empty
from gpu.data.format.keys import FLAGS, TOKEN_MASKS, check_row_keys, is_preference
from gpu.data.format.role_order import check_order, is_blank
from gpu.data.format.token_rows import parse_tokens
from gpu.data.format.tools import parse_tools
from gpu.data.format.turns import Turns, parse_messages
from gpu.data.problems import Findings, type_name

_PAIR = (False, True)


@dataclass(frozen=True)
class Format:
    """A format. `needs`: the row has one field of each of these groups."""

    name: str
    shown: str
    needs: tuple[tuple[str, ...], ...]
    read: Callable[[Fields, Findings], Row | None]
    reads: frozenset[str] = frozenset()
    """All fields that `read` uses, those of `needs` included."""

    def fits(self, fields: Fields) -> bool:
        """True if a row has the fields that the format needs."""
        for group in self.needs:
            for name in group:
                if name in fields:
                    break
            else:
                return False
        return True


def recognise_format(fields: Fields, found: Findings) -> Format | None:
    """Return the format that a row has by its fields; None, with a problem in `found`, if none can be trained."""
    for one in FORMATS.values():
        if one.needs and one.fits(fields):
            return one
    if is_preference(fields):
        check_row_keys(fields, frozenset(), found)
        return None
    pair = next((pair for pair in _SUGGESTED_PAIRS if pair[0] in fields and pair[1] in fields), None)
    known = "; ".join(one.shown for one in FORMATS.values() if one.needs)
    advice = (
        f'Set [data] prompt = "{pair[0]}" and completion = "{pair[1]}" in keepstep.toml.'
        if pair
        else f"Known formats: {known}. Or name your own fields in keepstep.toml: [data] prompt = …, completion = …"
    )
    found.add("unknown_format", "the fields of the row match no known format", field_names(fields), advice)
    return None


def get_format(name: str, settings: DataSettings) -> Format:
    """Return the format called `name`, with the field names that the settings give."""
    if name == "prompt_completion" and (settings.prompt is not None or settings.completion is not None):
        return _custom_format(settings.prompt or "prompt", settings.completion or "completion")
    return FORMATS[name]


@lru_cache(maxsize=8)
def _custom_format(prompt: str, completion: str) -> Format:
    read = partial(_prompt_completion, names=(prompt, completion))
    reads = frozenset({prompt, completion, *CONTEXT, "history"})
    return Format("prompt_completion", f"{prompt} + {completion}", ((prompt,), (completion,)), read, reads)


def read_fields(fields: Fields, form: Format, found: Findings) -> Row | None:
    """Parse a row; None if it cannot be trained. `found` gets its problems, also those of a row that is returned."""
    if len(fields) > len(form.needs):
        _check_other_formats(fields, form, found)
        check_row_keys(fields, form.reads, found, judges_answers=form.name not in ("text", "plain_text", "tokens"))
    row = form.read(fields, found)
    return None if row is None or found.broken else row


def _check_other_formats(fields: Fields, form: Format, found: Findings) -> None:
    """Warn if a row fits another format too: Alpaca's files have each row as `text` as well."""
    for other in FORMATS.values():
        needed = {name for group in other.needs for name in group if name in fields}
        if other.needs and other.name not in (form.name, "tokens") and other.fits(fields) and not needed <= form.reads:
            left_out = ", ".join(sorted(needed - form.reads))
            what = f"keepstep reads the row as {form.name} and ignores its fields of the format {other.name}"
            advice = f'To train those instead, set [data] format = "{other.name}" in keepstep.toml. Or remove them.'
            found.add("row_key_ignored", what, left_out, advice)


_SUGGESTED_PAIRS = (
    ("question", "answer"),
    ("prompt", "response"),
    ("query", "response"),
    ("question", "response"),
    ("input", "output"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("source", "target"),
)
"""Common names of a prompt and its answer that belong to no format; keepstep suggests them and never assumes them."""


# -- messages -------------------------------------------------------------------------------------------------------


def _messages(fields: Fields, found: Findings) -> Row | None:
    return _conversation(fields, "messages", found)


def _sharegpt(fields: Fields, found: Findings) -> Row | None:
    return _conversation(fields, "conversations" if "conversations" in fields else "conversation", found)


def _conversation(fields: Fields, name: str, found: Findings) -> Row | None:
    if name not in fields:
        expected = 'Expected: {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}.'
        found.add("missing_messages_list", f"the field {name!r} is missing; the row has", field_names(fields), expected)
        return None
    turns = parse_messages(fields[name], name, found)
    return _example(_with_system(turns, fields, found), fields, found)


def _with_system(turns: Turns, fields: Fields, found: Findings) -> Turns:
    """Put the system prompt that the row has in another field before the messages."""
    system = system_prompt(fields, found)
    if not system:
        return turns
    first = turns.messages[0] if turns.messages else {}
    if first.get("role") == "system":
        if first["content"] != system:
            what = "the field with the system prompt and the first message differ"
            found.add("bad_field", what, [system, first["content"]], "Keep one of them.")
        return turns
    return Turns([{"role": "system", "content": system}, *turns.messages], [False, *turns.train])


def _example(turns: Turns, fields: Fields, found: Findings) -> Row | None:
    messages, train = turns
    tools = declared_tools_field(fields, found)
    made = parse_tools(tools, found) if tools else None
    kwargs = template_kwargs(fields, found) if "chat_template_kwargs" in fields else None
    if True not in train and messages:
        roles = [message["role"] for message in messages]
        if None in roles:
            pass  # an unknown role, already reported, may have been meant as the assistant's
        elif "assistant" not in roles:
            what = "the row has no assistant message to train"
            found.add("example_missing_assistant_message", what, messages, "Add the answer, or remove the row.")
        else:
            what = "the flags of the row exclude all of its assistant messages from training"
            found.add(
                "no_trainable_tokens",
                what,
                messages,
                "Set the weight or train flag of one of them, or remove the row.",
            )
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
        return _answer_example(prompt, completion, names, fields, found)
    for name in names:
        if name not in fields:
            add_missing_field(name, fields, found)
    if found.broken:
        return None
    if isinstance(prompt, list) and isinstance(completion, list):
        before = parse_messages(prompt, names[0], found)
        after = parse_messages(completion, names[1], found, first=len(prompt) + 1)
        if not found.broken and not any(message["role"] == "assistant" for message in after.messages):
            what = f"the field {names[1]!r} has no assistant message to train"
            found.add("example_missing_assistant_message", what, completion, "Add the answer, or remove the row.")
        if any(isinstance(message, dict) and any(message.get(flag) for flag in FLAGS) for message in prompt):
            what = f"a message of {names[0]!r} has a train flag, but keepstep trains only {names[1]!r}"
            found.add(
                "train_flag_ignored", what, prompt, f"Move the message to {names[1]!r}, or write the row as `messages`."
            )
        turns = Turns(before.messages + after.messages, [False] * len(before.train) + after.train)
        return _example(_with_system(turns, fields, found), fields, found)
    for name, value in zip(names, (prompt, completion), strict=True):
        if not isinstance(value, str):
            what = f"the field {name!r} must be a string like the other one, but it is {type_name(value)}"
            if (
                isinstance(value, list)
                or not isinstance(prompt, (str, list))
                or not isinstance(completion, (str, list))
            ):
                what = (
                    f"the field {name!r} must be a string (or both fields a list of messages), but it is "
                    f"{type_name(value)}"
                )
            found.add("bad_field", what, value, CORRECT)
    return None


def _pair_example(prompt: str, completion: str, names: tuple[str, str], found: Findings) -> Example | None:
    if is_blank("assistant", completion):
        found.add("bad_field", f"the field {names[1]!r} is empty, so there is nothing to train", prompt, CORRECT)
        return None
    if is_blank("user", prompt):
        what = f"the field {names[0]!r} is empty, so keepstep trains the completion as text, without the chat template"
        found.add("empty_prompt", what, completion, "Write the prompt, or write the row as `text`.")
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return Example(found.line, messages, _PAIR, None, True)


def _instruction(fields: Fields, found: Findings) -> Row | None:
    """Parse a row of Alpaca, also with `system` and `history` (LLaMA-Factory), `context` and `response` (Dolly)."""
    extra_name = "input" if fields.get("input") else "context"
    answer_name = "output" if "output" in fields or "response" not in fields else "response"
    instruction, answer = _string("instruction", fields, found), _string(answer_name, fields, found)
    extra = _string(extra_name, fields, found) if fields.get(extra_name) is not None else ""
    if found.broken:
        return None
    for one, other in (("input", "context"), ("output", "response")):
        if fields.get(one) and fields.get(other) and fields[one] != fields[other]:
            what = f"the row has both {one!r} and {other!r}, and keepstep would train only one of them"
            found.add("bad_field", what, [fields[one], fields[other]], "Keep one of them, or join them.")
    prompt = "\n\n".join(part for part in (instruction, extra) if part)
    if is_blank("user", prompt):
        found.add("bad_field", "the field 'instruction' is empty", answer, CORRECT)
        return None
    return _answer_example(prompt, answer, ("instruction", answer_name), fields, found)


def _answer_example(prompt: str, answer: str, names: tuple[str, str], fields: Fields, found: Findings) -> Row | None:
    """Make an example of a prompt and its answer, after the system prompt and the history of the row."""
    if len(fields) == 2:  # nearly every row
        return _pair_example(prompt, answer, names, found)
    system = system_prompt(fields, found)
    history = [] if is_empty(fields.get("history")) else fields["history"]
    if not isinstance(history, list) or not all(map(_is_pair, history)):
        what = "the field 'history' must be a list of pairs of a question and its answer"
        found.add("bad_field", what, history, 'Expected: "history": [["…", "…"], …].')
        return None
    if not system and not history and declared_tools_field(fields, found) is None:
        row = _pair_example(prompt, answer, names, found)
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
            if is_blank(role, content):
                found.add("bad_field", f"{place} is empty", pair, CORRECT)
    if found.broken:
        return None
    messages = [{"role": "system", "content": system}] if system else []
    for question, run_request in pairs:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": run_request}]
    return _example(Turns(messages, [message["role"] == "assistant" for message in messages]), fields, found)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(part, str) for part in value)


# -- text and tokens ------------------------------------------------------------------------------------------------


def _text(fields: Fields, found: Findings) -> Row | None:
    text = _string("text", fields, found)
    if not found.broken and is_blank("assistant", text):
        found.add("bad_field", "the field 'text' is empty, so there is nothing to train", "", CORRECT)
    return None if found.broken else Text(found.line, text)


def _plain_text(fields: Fields, found: Findings) -> Row | None:
    return Text(found.line, fields["text"])


# -- fields ---------------------------------------------------------------------------------------------------------


def _string(name: str, fields: Fields, found: Findings) -> str:
    if name not in fields:
        add_missing_field(name, fields, found)
        return ""
    value = fields[name]
    if not isinstance(value, str):
        found.add("bad_field", f"the field {name!r} must be a string, but it is {type_name(value)}", value, CORRECT)
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
            parse_tokens,
            *("labels", "attention_mask", *TOKEN_MASKS),
        ),
        _format("text", "text", (("text",),), _text),
        _format("plain_text", "plain text, if keepstep.toml sets it", (), _plain_text, "text"),
    )
}
