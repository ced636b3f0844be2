"""Names of other trainers lead to the key of keepstep.toml, or to where that is decided."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.config.checks.other_names import ELSEWHERE, SAME, find_meant
from cli.config.schema import hint_of, parse_config
from cli.errors import UserError


@pytest.mark.parametrize(
    ("section", "name", "says"),
    [
        ("training", "num_train_epochs", "did you mean [training] epochs?"),
        ("training", "per_device_train_batch_size", "did you mean [training] batch_size?"),
        ("training", "gradient_accumulation_steps", "did you mean [training] gradient_accumulation?"),
        ("training", "lora_alpha", "did you mean [method] alpha?"),
        ("method", "learning_rate", "did you mean [training] learning_rate?"),
        ("", "max_seq_length", "did you mean [data] max_length?"),
        ("training", "learning_rat", "did you mean [training] learning_rate?"),
        ("training", "Learning-Rate", "did you mean [training] learning_rate?"),
        ("training", "output_dir", "the home is the output directory"),
        ("training", "use_gradient_checkpointing", "did you mean [training] gradient_checkpointing?"),
        ("training", "activation_offloading", "not available yet"),
        ("model", "attn_implementation", "not available yet"),
        ("training", "optim", "not available yet"),
        ("training", "zzz", ""),
    ],
)
def test_the_meant_key_is_named(section: str, name: str, says: str) -> None:
    assert says in find_meant(section, name)
    assert bool(says) == bool(find_meant(section, name))


def test_every_named_key_exists_and_no_other_name_has_two_meanings() -> None:
    """A renamed setting must be renamed here too."""
    for key in SAME:
        assert hint_of(key, "qlora") is not None or hint_of(key, "lora") is not None, key
    names = [name for others in (*SAME.values(), *ELSEWHERE.values()) for name in others]
    assert sorted(names) == sorted(set(names))
    for key, others in SAME.items():
        assert key.partition(".")[2] not in others


def test_other_sections_are_named() -> None:
    """And a key that is in no section."""
    for document, says in (
        ({"lora": {"r": 8}}, r"\[method\]"),
        ({"num_train_epochs": 3}, r"\[training\] epochs"),
        ({"zzz": {"num_train_epochs": 3}}, r"num_train_epochs: did you mean \[training\] epochs"),
    ):
        with pytest.raises(UserError) as refused:
            parse_config({"model": {"path": "m"}, **document}, Path("keepstep.toml"))
        assert re.search(says, refused.value.advice)
