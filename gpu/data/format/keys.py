"""Check the keys of rows and messages against `gpu.data.format.key_tables`, and report what keepstep does not do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpu.data.format.key_tables import MESSAGE_KEYS, ROW_KEYS, Key, is_empty
from gpu.data.problems import Findings

FLAGS = (
    "weight",
    "train",
    "training",
    "loss",
    "loss_scale",
    "loss_weight",
    "loss_mask",
    "trainable",
    "train_on",
    "train_on_turn",
    "learn",
)
"""Flags of a message: with true or 1 it is trained, with false or 0 it is not."""

INVERSE_FLAGS = ("masked", "is_masked", "mask", "ignore")
"""Flags of a message: with true or 1 it is not trained."""

TOKEN_MASKS = ("completion_mask", "assistant_masks", "assistant_mask", "token_loss_mask", "loss_mask")
"""Fields of a row of token ids with a 1 for each trained token. Several masks apply together, as in TRL."""

SYSTEM = ("system", "system_prompt", "system_message")
"""Names of the field with the system prompt of a row."""


def _by_name(keys: Iterable[Key]) -> Mapping[str, Key]:
    return {name: key for key in keys for name in key.names}


_ROW_KEYS, _MESSAGE_KEYS = _by_name(ROW_KEYS), _by_name(MESSAGE_KEYS)


def check_row_keys(
    fields: Mapping[str, Any], used: frozenset[str], found: Findings, *, judges_answers: bool = True
) -> None:
    """Add to `found` what the keys of a row mean to other trainers and keepstep does not do.

    `used`: the keys that the row's format reads. `judges_answers`: False if a `label` cannot judge an answer. In a row
    of text it is the class of the text, which no trainer of language models reads.
    """
    for name, value in fields.items():
        key = _ROW_KEYS.get(name)
        if key is None or name in used or not key.has_effect(value):
            continue
        if key.handling == "read" or (name == "label" and not judges_answers):
            key = _UNREAD._replace(meaning=key.meaning)
        _add(key, name, value, "the row", found)


def is_preference(fields: Mapping[str, Any]) -> bool:
    """True if a key says that the row holds several answers, or a judged one."""
    return any(
        (key := _ROW_KEYS.get(name)) is not None and key.problem == "preference_data" and key.has_effect(value)
        for name, value in fields.items()
    )


def check_message_keys(message: Mapping[str, Any], own: tuple[str, ...], where: str, found: Findings) -> None:
    """Check the keys of a message in the same way. `own`: the keys of its role and content."""
    unknown = []
    for name, value in message.items():
        key = _MESSAGE_KEYS.get(name)
        if key is None:
            unknown += [name] if name not in own else []
        elif name in own or key.handling == "read":
            continue
        elif key.has_effect(value):
            _add(key, name, value, where, found)
        elif name == "label" and not is_empty(value):
            unknown.append(name)
    if unknown:
        what = f"{where} has unknown keys, which keepstep ignores"
        advice = "Put what is to be trained into the content."
        found.add("message_unrecognized_key", what, ", ".join(unknown), advice)


_UNREAD = Key(
    (), "", "", "warned", "row_key_ignored", "This format does not use the key. Remove it, or correct the row."
)


def _add(key: Key, name: str, value: Any, where: str, found: Findings) -> None:
    verb = "ignores" if key.handling == "warned" else "does not support"
    what = f"keepstep {verb} {name!r} of {where} ({key.meaning})"
    found.add(key.problem, what, value, key.advice or "Remove the key.")
