"""What a key allows is said in words, with an example."""

from __future__ import annotations

import doctest

import pytest

from cli.config.checks import allowed
from cli.config.schema import hint_of


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("training.epochs", "a whole number at least 1"),
        ("training.betas", "a list of 2, each item a number at least 0.0 and below 1.0"),
        ("consolidation.schedule", 'such as "03:00" or "23:30"'),
        ("data.packing", "true or false"),
        ("method.quant_type", '"nf4", "fp4"'),
    ],
)
def test_the_allowed_values_are_words(key: str, words: str) -> None:
    assert words in allowed.allowed(hint_of(key, "qlora"))


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(allowed).failed == 0
