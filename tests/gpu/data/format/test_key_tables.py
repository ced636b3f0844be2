"""Values of a key that change what is trained are recognised."""

from __future__ import annotations

from typing import Any

import pytest

from gpu.data.format.key_tables import ROW_KEYS, is_judgement


@pytest.mark.parametrize("label", [True, 0, 1.0, "true", "0", "Desirable", "t", "N", [False]])
def test_a_truth_value_in_any_spelling_is_a_verdict(label: Any) -> None:
    assert is_judgement(label)


@pytest.mark.parametrize("label", ["math", 7, None, [], {"a": 1}, 0.3])
def test_a_class_is_no_verdict(label: Any) -> None:
    assert not is_judgement(label)


@pytest.mark.parametrize(
    ("name", "value", "effect"),
    [
        ("weight", 1, False),
        ("weight", "1.0", False),
        ("weight", 2, True),
        ("weight", [1, 1], False),
        ("weight", [1, 0], True),
        ("weight", "nan", False),
        ("loss_mask", [0, 1], True),
        ("train", "off", True),
        ("mask", False, False),
        ("images", "[]", False),
        ("images", [None], False),
        ("position_ids", [0, 1, 2], False),
        ("position_ids", [0, 1, 0], True),
        ("token_type_ids", [0, 0], False),
        ("seq_lengths", [3], False),
        ("train_on_input", "false", False),
        ("split", ["test"], True),
        ("split", "train_sft", False),
        ("loss", 0, True),
        ("loss", "false", True),
        ("loss", 0.7, False),
        ("mask", ["user", "system"], False),
        ("mask", ["user", "assistant"], True),
        ("split", "Train", False),
        ("split", "validation", True),
        ("chosen", [], True),
        ("chosen", None, False),
        ("tool_choice", "auto", False),
        ("tool_choice", "required", True),
    ],
)
def test_only_some_values_of_a_key_have_an_effect(name: str, value: Any, effect: bool) -> None:
    (key,) = [key for key in ROW_KEYS if name in key.names]
    assert bool(key.has_effect(value)) is effect
