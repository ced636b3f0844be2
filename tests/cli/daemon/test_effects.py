"""The effect executor has a method for each effect."""

from __future__ import annotations

from typing import get_args

from cli.daemon.effects import METHODS
from core.effects import AnyEffect


def test_every_effect_has_a_method() -> None:
    """And no method is without an effect."""
    assert set(METHODS) == set(get_args(AnyEffect))
