"""The words for what a validation loss may be."""

from __future__ import annotations

from typing import get_args

from core.topics.evaluation.validation import SAYS
from events.values import CONCERNS, Concern


def test_concerns_are_ranked_and_each_has_words() -> None:
    """From the least to the worst."""
    assert get_args(Concern) == CONCERNS
    assert set(SAYS) == set(CONCERNS)
