"""The rules by which an answer is the expected one."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from events.matching import Matcher, last_number, matches, normalized, without_thoughts


@pytest.mark.parametrize(
    ("matcher", "answer", "expected", "same"),
    [
        ("exact", " Paris\n", "Paris", True),
        ("exact", "paris", "Paris", False),
        ("exact", "<think>x</think>Paris", "Paris", False),
        ("normalized", "**PARIS**.", "paris", True),
        ("normalized", "the  city\nof Paris", "The city of Paris.", True),
        ("normalized", "<think>London?</think>\nParis", "Paris", True),
        ("normalized", "<think>Paris", "Paris", False),  # it has not begun to answer
        ("normalized", "\N{FULLWIDTH DIGIT FOUR}", "4", True),
        ("normalized", "", "", True),
        ("numeric", "It is 1,000.0 metres.", "1000", True),
        ("numeric", "2 + 2 = 5", "2 + 2 = 4", False),
        ("numeric", "\N{MINUS SIGN}3", "-3", True),
        ("numeric", "1e3", "1000", True),
        ("numeric", "none", "none", False),  # without a number there is nothing to compare
        ("numeric", "version v4", "4", False),
        ("contains", "It is Paris, of course", "paris", True),
        ("contains", "15 apples", "5", False),
        ("contains", "anything", "", False),
        ("contains", "a+b is fine", "a+b", True),
    ],
)
def test_an_answer_is_compared(matcher: Matcher, answer: str, expected: str, same: bool) -> None:
    assert matches(matcher, answer, expected) == same


@pytest.mark.parametrize(
    ("pattern", "answer", "expected", "same"),
    [
        (r"answer: (\w+)", "answer: a, no, answer: b", "answer: b", True),
        (r"answer: (\w+)", "answer: b", "B", True),  # the expected answer is bare
        (r"\d+", "7 and 8", "8", True),
        (r"\d+", "none", "8", False),
        (r"(a)|b", "b", "b", True),  # a group that takes no part
    ],
)
def test_a_pattern_finds_what_is_compared(pattern: str, answer: str, expected: str, same: bool) -> None:
    assert matches("regex", answer, expected, pattern=pattern) == same


def test_a_pattern_that_is_none_is_an_error() -> None:
    with pytest.raises(re.error):
        matches("regex", "a", "a", pattern="(")


@pytest.mark.parametrize(
    ("text", "tag", "rest"),
    [
        ("<think>a</think>b", "<think>", "b"),
        ("a</think>b", "<think>", "b"),  # the prompt opened it
        ("<think>a", "<think>", ""),
        ("a", "<think>", "a"),
        ("<think>a</think>b", "", "<think>a</think>b"),
        ("[[x]]a[[x]]b", "[[x]]", "b"),  # a tag that closes itself
        ("[[x]]a", "[[x]]", ""),
    ],
)
def test_a_train_of_thought_is_no_part_of_the_answer(text: str, tag: str, rest: str) -> None:
    assert without_thoughts(text, tag) == rest


def test_numbers_and_texts_in_their_normal_form() -> None:
    assert last_number("3.14 is not 22/7") == Decimal(7)
    assert last_number("a .5") == Decimal("0.5")
    assert last_number("x1") is None
    assert normalized("“Straße”") == "strasse"
