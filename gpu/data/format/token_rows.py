"""Parse rows of token ids, with labels and masks."""

from __future__ import annotations

from typing import Any

from gpu.data.format.context import CORRECT, Fields, add_missing_field
from gpu.data.format.example import Tokenised
from gpu.data.format.keys import TOKEN_MASKS
from gpu.data.problems import Findings

IGNORED_LABEL = -100
"""The label that PyTorch's cross entropy ignores."""


def parse_tokens(fields: Fields, found: Findings) -> Tokenised | None:
    """Return the row; None, with the problems in `found`, if it cannot be trained."""
    if "input_ids" not in fields:
        add_missing_field("input_ids", fields, found)
        return None
    ids, labels, mask = fields["input_ids"], fields.get("labels"), fields.get("attention_mask")
    masks = [fields[name] for name in TOKEN_MASKS if fields.get(name) is not None]
    if not _are_integers(ids) or min(ids) < 0:
        what = "the field 'input_ids' must be a list of token ids, integers from 0"
        found.add("bad_tokens", what, ids, CORRECT)
        return None
    if labels is not None and (not _are_integers(labels) or len(labels) != len(ids)):
        what = f"the field 'labels' must have one integer for each of the {len(ids)} token ids"
        found.add("bad_labels", what, labels, CORRECT)
        return None
    for name in TOKEN_MASKS:
        value = fields.get(name)
        if value is not None and not _is_token_mask(value, len(ids)):
            what = f"the field {name!r} must have a 0 or a 1 for each of the {len(ids)} token ids"
            found.add("bad_labels", what, value, CORRECT)
            return None
    if masks:
        labels = [label if all(mask[at] for mask in masks) else IGNORED_LABEL for at, label in enumerate(labels or ids)]
    if mask is not None:
        if not _are_integers(mask) or len(mask) != len(ids) or not _is_padding(mask):
            what = (
                f"the field 'attention_mask' must have {len(ids)} ones, with zeros only as padding before or after them"
            )
            found.add("bad_attention_mask", what, mask, CORRECT)
            return None
        first, count = mask.index(1), sum(mask)
        ids, labels = ids[first : first + count], labels and labels[first : first + count]
    if labels is None:
        return Tokenised(found.line, ids, [True] * len(ids))
    wrong = next(
        (at for at, label in enumerate(labels) if label != ids[at] and label != IGNORED_LABEL),
        None,
    )
    if wrong is not None:
        what = f"label {wrong + 1} is {labels[wrong]}; it must be its token id {ids[wrong]} or {IGNORED_LABEL}"
        found.add("bad_labels", what, labels, "Labels belong to their own tokens; do not shift them by one.")
        return None
    trained = [label != IGNORED_LABEL for label in labels]
    if not any(trained[1:]):  # nothing predicts the first token
        found.add(
            "no_trainable_tokens",
            f"all labels of the row are {IGNORED_LABEL}, so there is nothing to train",
            labels,
            CORRECT,
        )
        return None
    return Tokenised(found.line, ids, trained)


def _are_integers(value: Any) -> bool:
    """True for a list of integers; Python counts booleans as such, and they are no token ids."""
    return isinstance(value, list) and bool(value) and set(map(type, value)) == {int}


def _is_token_mask(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(item in (0, 1) for item in value)


def _is_padding(mask: list[int]) -> bool:
    if not set(mask) <= {0, 1} or 1 not in mask:
        return False
    first = mask.index(1)
    return 0 not in mask[first : first + sum(mask)]
