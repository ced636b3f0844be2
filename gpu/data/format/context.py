"""The context of a row of any format with answers: the system prompt, tools, and arguments of the chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpu.data.format.key_tables import is_empty
from gpu.data.format.keys import SYSTEM
from gpu.data.problems import Findings, type_name

Fields = Mapping[str, Any]

CONTEXT = (*SYSTEM, "tools", "functions", "chat_template_kwargs")
"""Keys of the context; `gpu.data.format.tools` parses the tools."""

CORRECT = "Correct the row or remove it."


def system_prompt(fields: Fields, found: Findings) -> str:
    """Return the system prompt of a row; "" if it has none."""
    given = {name: value for name in SYSTEM if (value := fields.get(name))}
    for name, value in given.items():
        if not isinstance(value, str):
            found.add("bad_field", f"the field {name!r} must be a string, but it is {type_name(value)}", value, CORRECT)
    texts = {value for value in given.values() if isinstance(value, str)}
    if len(texts) > 1:
        what = f"the fields {', '.join(map(repr, given))} contain different system prompts"
        found.add("bad_field", what, given, "Keep one of them.")
    return next(iter(texts), "")


def declared_tools_field(fields: Fields, found: Findings) -> Any:
    """Return the declared tools of a row before parsing; None if it has none."""
    given = {name: value for name in ("tools", "functions") if not is_empty(value := fields.get(name))}
    if len(given) > 1:
        found.add("bad_field", "the row declares tools in both 'tools' and 'functions'", given, "Keep one of them.")
    return next(iter(given.values()), None)


def template_kwargs(fields: Fields, found: Findings) -> dict[str, Any] | None:
    """Return TRL's `chat_template_kwargs`; None if the row has none."""
    given = fields.get("chat_template_kwargs")
    if is_empty(given):
        return None
    wrong = sorted(_RESERVED & given.keys()) if isinstance(given, dict) else []
    if not isinstance(given, dict) or wrong:
        what = "the field 'chat_template_kwargs' must be an object with arguments of the chat template"
        what += f", without {', '.join(wrong)}, which keepstep sets" if wrong else f", it is {type_name(given)}"
        found.add("bad_field", what, given, CORRECT)
        return None
    return {name: value for name, value in given.items() if value is not None} or None


_RESERVED = frozenset(
    {
        *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize"),
        *("continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
        *("return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens"),
        *("bos_token", "eos_token", "pad_token", "unk_token"),
    }
)
"""Arguments of `apply_chat_template`, and of templates, that a row may not set."""


def add_missing_field(name: str, fields: Fields, found: Findings) -> None:
    """Add the problem that a field of the format is missing."""
    advice = "All rows of a file need the same fields. Correct the row or remove it, then add the file again."
    found.add("missing_field", f"the field {name!r} is missing; the row has", field_names(fields), advice)


def field_names(fields: Fields) -> str:
    """Return the names of a row's fields, as a message shows them."""
    return ", ".join(fields) or "none"
