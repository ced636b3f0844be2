"""Rows to tensors."""

from __future__ import annotations

import torch

from gpu.collate import collate
from gpu.data.tokens import Encoded, Tokens

CPU = torch.device("cpu")


def test_rows_are_padded_at_the_right_and_targets_are_the_next_tokens() -> None:
    tokens = Tokens()
    tokens.append(Encoded([9, 9], [1, 1], False))
    tokens.append(Encoded([11, 12, 13, 14], [0, 0, 1, 1], False))
    tokens.append(Encoded([21, 22], [0, 1], False))
    inputs = collate(tokens, (1, 2), CPU)
    assert inputs.input_ids.tolist() == [[11, 12, 13, 14], [21, 22, 0, 0]]
    assert inputs.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert inputs.columns.tolist() == [0, 1, 2]
    assert inputs.targets.tolist() == [[-100, 13, 14], [22, -100, -100]]


def test_logits_are_asked_for_only_where_something_is_learned() -> None:
    tokens = Tokens()
    tokens.append(Encoded([1, 2, 3, 4, 5], [0, 0, 1, 0, 1], False))
    inputs = collate(tokens, (0,), CPU)
    assert inputs.columns.tolist() == [1, 3]
    assert inputs.targets.tolist() == [[3, 5]]
