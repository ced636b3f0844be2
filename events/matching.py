"""Compare an answer of a model with the expected one. Pure: samples, evaluation suites and the page use the same rules.

    exact        the same text, without the white space around it
    normalized   the same text without regard to case, white space, Unicode form, and punctuation around it
    numeric      the last number of the answer is the last number of the expected answer
    contains     the answer contains the expected answer, normalized and as whole words
    regex        what the pattern finds last is the same in both

All but "exact" compare what follows a train of thought (`<think>…</think>`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Literal

Matcher = Literal["exact", "normalized", "numeric", "contains", "regex"]

Verifier = Literal["exact", "normalized", "numeric", "contains", "regex", "command"]
"""One of these rules, or a person's program (`gpu.evaluation.judge`)."""

_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?!\w)|[-+]?\.\d+")
"""A number as people write it: with thousands separators, a fraction, an exponent."""

_AROUND = " \t\n.,;:!?\"'`*_()[]{}«»“”‘’„…"
"""White space, punctuation and Markdown around an answer."""


def matches(matcher: Matcher, answer: str, expected: str, *, pattern: str = "", think_tag: str = "<think>") -> bool:
    """True if the answer is the expected one. Raises re.error for a pattern that is no regular expression.

    >>> matches("normalized", "<think>hm</think> Paris.", "paris"), matches("exact", "Paris.", "Paris")
    (True, False)
    """
    if matcher == "exact":
        return answer.strip() == expected.strip()
    said, wanted = (without_thoughts(text, think_tag) for text in (answer, expected))
    if matcher == "regex":
        return _same_extract(said, wanted, pattern)
    return _RULES[matcher](said, wanted)


def without_thoughts(text: str, think_tag: str) -> str:
    """The text after the train of thought; "" if that does not end.

    >>> without_thoughts("<think>a</think>b", "<think>"), without_thoughts("<think>a", "<think>")
    ('b', '')
    """
    if not think_tag:
        return text
    closing = f"</{think_tag[1:]}" if think_tag.startswith("<") else think_tag
    before, found, after = text.rpartition(closing)
    if found and (closing != think_tag or think_tag in before):
        return after
    return "" if think_tag in text else text


def normalized(text: str) -> str:
    """The text without regard to case, white space, Unicode form, and punctuation around it.

    >>> normalized("  **The  Answer**.")
    'the answer'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_AROUND)


def last_number(text: str) -> Decimal | None:
    """The last number in a text; None: it has none.

    >>> last_number("2 + 2,000 = 2,002.50"), last_number("none")
    (Decimal('2002.50'), None)
    """
    found = _NUMBER.findall(unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-"))
    return Decimal(found[-1].replace(",", "")) if found else None


def _same_text(said: str, wanted: str) -> bool:
    return normalized(said) == normalized(wanted)


def _same_number(said: str, wanted: str) -> bool:
    number = last_number(wanted)
    return number is not None and last_number(said) == number


def _contains(said: str, wanted: str) -> bool:
    phrase = normalized(wanted)
    return bool(phrase) and re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", normalized(said)) is not None


def _same_extract(said: str, wanted: str, pattern: str) -> bool:
    """The expected answer may be bare: then what is found in the answer is compared with all of it."""
    found = _extract(said, pattern)
    if found is None:
        return False
    in_wanted = _extract(wanted, pattern)
    return normalized(found) == normalized(wanted if in_wanted is None else in_wanted)


def _extract(text: str, pattern: str) -> str | None:
    """The last thing that the pattern finds: its first group, or all of it."""
    found = None
    for found in re.finditer(pattern, text):  # noqa: B007  # the last one counts
        pass
    if found is None:
        return None
    return found[1] if found.re.groups and found[1] is not None else found[0]


_RULES: Mapping[str, Callable[[str, str], bool]] = {
    "normalized": _same_text,
    "numeric": _same_number,
    "contains": _contains,
}
