"""A key under its old name is read, and one line says what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli.config.renamed import present_key, with_present_names
from cli.config.schema import parse_config
from cli.errors import UserError

FILE = Path("keepstep.toml")
MODEL = {"model": {"path": "tiny"}}


@pytest.mark.parametrize(
    ("section", "old", "new", "value"),
    [
        ("checks", "learned_before", "trained_before", "refuse"),
        ("checks", "learned_before_max", "trained_before_max", 0.25),
        ("hooks", "on_batch_set_aside", "on_batch_skipped", "say it"),
    ],
)
def test_an_old_name_is_read_and_said_once(section: str, old: str, new: str, value: Any) -> None:
    """With the value that it has; the present name leads to no line."""
    before = parse_config({**MODEL, section: {old: value}}, FILE)
    now = parse_config({**MODEL, section: {new: value}}, FILE)
    assert (before.job, before.hooks) == (now.job, now.hooks)
    assert before.old_names == (f"keepstep.toml: {section}.{old} is an old name; write {new} instead",)
    assert now.old_names == ()
    assert present_key(f"{section}.{old}") == present_key(f"{section}.{new}") == f"{section}.{new}"


def test_an_old_trigger_is_read() -> None:
    """In the list of those that are notified of."""
    config = parse_config({**MODEL, "hooks": {"notify_on": ["held", "batch_set_aside"]}}, FILE)
    assert config.hooks.notify_on == ("held", "batch_skipped")
    assert len(config.old_names) == 1


def test_both_names_of_a_key_are_refused() -> None:
    """Which of the two values counts is not guessed."""
    with pytest.raises(UserError, match=r"old name of checks\.trained_before, and both are set"):
        with_present_names({"checks": {"learned_before": "off", "trained_before": "warn"}}, FILE)
