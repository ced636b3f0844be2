"""Rows of token ids that somebody else made, with labels and masks."""

from __future__ import annotations

from typing import Any

from gpu.data.format.context import CORRECT, Fields, add_missing
from gpu.data.format.example import Tokenised
from gpu.data.format.keys import TOKEN_MASKS
from gpu.data.format.problems import Findings

IGNORED_LABEL = -100
"""What PyTorch's cross entropy leaves out, and so what everybody writes."""


def read_tokens(fields: Fields, found: Findings) -> Tokenised | None:
    """The row; None, and the problems with it in `found`, where it cannot be trained."""
    if "input_ids" not in fields:
        add_missing("input_ids", fields, found)
        return None
    ids, labels, mask = fields["input_ids"], fields.get("labels"), fields.get("attention_mask")
    masks = [fields[name] for name in TOKEN_MASKS if fields.get(name) is not None]
    if not _are_whole(ids) or min(ids) < 0:
        what = "the field 'input_ids' must be a list of token ids, whole numbers from 0 up"
        found.add("bad_tokens", what, ids, CORRECT)
        return None
    if labels is not None and (not _are_whole(labels) or len(labels) != len(ids)):
        what = f"the field 'labels' must have one whole number for each of the {len(ids)} token ids"
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
        if not _are_whole(mask) or len(mask) != len(ids) or not _is_padding(mask):
            what = f"the field 'attention_mask' must have {len(ids)} ones, or zeros of padding before or behind them"
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
        what = f"label {wrong + 1} is {labels[wrong]}, and neither its token id {ids[wrong]} nor {IGNORED_LABEL}"
        found.add("bad_labels", what, labels, "Labels stand at their own tokens; they are not shifted by one.")
        return None
    trained = [label != IGNORED_LABEL for label in labels]
    if not any(trained[1:]):  # nothing comes before the first token, so it cannot be predicted
        found.add("no_trainable_tokens", f"all labels of this row are {IGNORED_LABEL}", labels, CORRECT)
        return None
    return Tokenised(found.line, ids, trained)


def _are_whole(value: Any) -> bool:
    """A truth value is an int to Python, and no token."""
    return isinstance(value, list) and bool(value) and set(map(type, value)) == {int}


def _is_token_mask(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(item in (0, 1) for item in value)


def _is_padding(mask: list[int]) -> bool:
    if not set(mask) <= {0, 1} or 1 not in mask:
        return False
    first = mask.index(1)
    return 0 not in mask[first : first + sum(mask)]
