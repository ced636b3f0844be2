"""Rows of token ids: padding, labels and masks."""

from __future__ import annotations

from typing import Any

from gpu.data.format.example import Tokenised
from gpu.data.format.token_rows import parse_tokens
from gpu.data.problems import Findings


def of(fields: dict[str, Any]) -> tuple[Tokenised | None, list[str]]:
    found = Findings(1)
    return parse_tokens(fields, found), [problem.name for problem in found.problems]


def test_padding_is_taken_away_from_tokens() -> None:
    fields = {"input_ids": [0, 0, 5, 6, 7, 0], "labels": [-100, -100, -100, 6, 7, -100]}
    row, _ = of({**fields, "attention_mask": [0, 0, 1, 1, 1, 0]})
    assert row == Tokenised(1, [5, 6, 7], [False, True, True])
    assert of({"input_ids": [0, 5], "attention_mask": [0, 1]})[0] == Tokenised(1, [5], [True])


def test_masks_of_tokens_apply_together() -> None:
    fields = {"input_ids": [5, 6, 7, 8], "completion_mask": [0, 1, 1, 1], "assistant_masks": [0, 0, 1, 1]}
    assert of(fields)[0] == Tokenised(1, [5, 6, 7, 8], [False, False, True, True])
    with_labels = {**fields, "labels": [-100, -100, -100, 8]}
    assert of(with_labels)[0] == Tokenised(1, [5, 6, 7, 8], [False, False, False, True])
    assert of({"input_ids": [5, 6], "completion_mask": [0, 2]})[1] == ["bad_labels"]
    assert of({"input_ids": [5, 6], "loss_mask": [1]})[1] == ["bad_labels"]
