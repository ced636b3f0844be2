"""What keepstep reads of the keys in `gpu.data.format.key_tables`, and what it says of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpu.data.format.key_tables import MESSAGE_KEYS, ROW_KEYS, Key, is_empty
from gpu.data.format.problems import Findings

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
"""Flags of a message: true or 1, it is trained; false or 0, it is not."""

INVERSE_FLAGS = ("masked", "is_masked", "mask", "ignore")
"""Flags of a message: true or 1, it is not trained."""

TOKEN_MASKS = ("completion_mask", "assistant_masks", "assistant_mask", "token_loss_mask", "loss_mask")
"""Of a row of token ids: a 1 for each token that is trained. Several masks apply together, as in TRL."""

SYSTEM = ("system", "system_prompt", "system_message")
"""The names under which a row has its system prompt."""


def _by_name(keys: Iterable[Key]) -> Mapping[str, Key]:
    return {name: key for key in keys for name in key.names}


_ROW_KEYS, _MESSAGE_KEYS = _by_name(ROW_KEYS), _by_name(MESSAGE_KEYS)


def check_row_keys(
    fields: Mapping[str, Any], used: frozenset[str], found: Findings, *, judges_answers: bool = True
) -> None:
    """Add to `found` what the keys of a row mean that keepstep does not do.

    `used`: the keys that the row's format reads. `judges_answers`: whether a `label` may judge an answer; in a row of
    text it is the text's class, which no trainer of language models reads.
    """
    for name, value in fields.items():
        key = _ROW_KEYS.get(name)
        if key is None or name in used or not key.has_effect(value):
            continue
        if key.handling == "read" or (name == "label" and not judges_answers):
            key = _UNREAD._replace(meaning=key.meaning)
        _add(key, name, value, "the row", found)


def is_preference(fields: Mapping[str, Any]) -> bool:
    """True if a key says that the row holds several answers, or one that was judged."""
    return any(
        (key := _ROW_KEYS.get(name)) is not None and key.problem == "preference_data" and key.has_effect(value)
        for name, value in fields.items()
    )


def check_message_keys(message: Mapping[str, Any], own: tuple[str, ...], where: str, found: Findings) -> None:
    """The same for the keys of a message. `own`: the keys of its role and content."""
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
        what = f"{where} has keys that keepstep does not know"
        advice = "They are left out. Put what is to be trained into the content."
        found.add("message_unrecognized_key", what, ", ".join(unknown), advice)


_UNREAD = Key(
    (), "", "", "warned", "row_key_ignored", "Rows of this format do not use it. Remove it, or correct the row."
)


def _add(key: Key, name: str, value: Any, where: str, found: Findings) -> None:
    verb = "is left out" if key.handling == "warned" else "cannot be trained as it stands"
    found.add(key.problem, f"{name!r} of {where} ({key.meaning}) {verb}", value, key.advice or "Remove the key.")
