"""What a row of any format with answers may have besides them: a system prompt, and arguments of the chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpu.data.format.key_tables import is_empty
from gpu.data.format.keys import SYSTEM
from gpu.data.format.problems import Findings, kind_of

Fields = Mapping[str, Any]

CONTEXT = (*SYSTEM, "tools", "functions", "chat_template_kwargs")
"""The keys of it; `gpu.data.format.tools` reads the tools."""

CORRECT = "Correct the line or remove it."


def system_prompt(fields: Fields, found: Findings) -> str:
    """The system prompt of a row; "" if it has none."""
    given = {name: value for name in SYSTEM if (value := fields.get(name))}
    for name, value in given.items():
        if not isinstance(value, str):
            found.add("bad_field", f"the field {name!r} must be a string, it is {kind_of(value)}", value, CORRECT)
    texts = {value for value in given.values() if isinstance(value, str)}
    if len(texts) > 1:
        what = f"the fields {', '.join(map(repr, given))} give different system prompts"
        found.add("bad_field", what, given, "Keep one of them.")
    return next(iter(texts), "")


def tools_of(fields: Fields, found: Findings) -> Any:
    """The declared tools of a row, as they are written; None if it has none."""
    given = {name: value for name in ("tools", "functions") if not is_empty(value := fields.get(name))}
    if len(given) > 1:
        found.add("bad_field", "the row declares its tools twice, as 'tools' and as 'functions'", given, "Keep one.")
    return next(iter(given.values()), None)


def template_kwargs(fields: Fields, found: Findings) -> dict[str, Any] | None:
    """TRL's `chat_template_kwargs`; None if the row has none."""
    given = fields.get("chat_template_kwargs")
    if is_empty(given):
        return None
    wrong = sorted(_RESERVED & given.keys()) if isinstance(given, dict) else []
    if not isinstance(given, dict) or wrong:
        what = "the field 'chat_template_kwargs' must be an object with arguments of the chat template"
        what += f", and keepstep sets {', '.join(wrong)}" if wrong else f", it is {kind_of(given)}"
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
"""Arguments of `apply_chat_template`, and of templates, that are not the row's to set."""


def add_missing(name: str, fields: Fields, found: Findings) -> None:
    """Tell that a field which the format needs is missing."""
    advice = "All rows of a file need the same fields. Correct the line or remove it, then add the file again."
    found.add("missing_field", f"the field {name!r} is missing; there are", names_of(fields), advice)


def names_of(fields: Fields) -> str:
    """The names of the fields that a row has, as a message shows them."""
    return ", ".join(fields) or "none"
