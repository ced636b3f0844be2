"""Duplicates, near-duplicates and contradicting answers are found among rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu.data.examine.quality import (
    NO_PROMPT,
    SKETCH_NUMBERS,
    find_contradictions,
    find_duplicates,
    find_near_duplicates,
    hash_row,
    is_in_holdout,
    is_known,
    min_hash,
)
from gpu.data.format.example import Example, Row, Text, Tokenised

TIMELINE = (
    "In the morning the daemon wakes up, looks into its inbox, and finds a file that nobody has read before. " * 3
)


def asked(question: str, answer: str, line: int = 1) -> Example:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Example(line, turns, (False, True))


def hashes(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.uint64)


def sketches(*texts: str) -> np.ndarray:
    made = b"".join(min_hash(Text(1, text)) for text in texts)
    return np.frombuffer(made, dtype="<u4").reshape(-1, SKETCH_NUMBERS)


def test_what_a_row_says_is_known_wherever_it_stands_and_however_its_keys_are_ordered() -> None:
    turned = Example(9, [dict(reversed(turn.items())) for turn in asked("q", "a").messages], (False, True))
    assert hash_row(turned) == hash_row(asked("q", "a"))
    assert hash_row(Example(1, asked("q", "a").messages, (True, True))) != hash_row(asked("q", "a"))


@pytest.mark.parametrize("row", [Text(1, "t"), Tokenised(1, [1, 2], [False, True])])
def test_a_row_without_question_and_answer_contradicts_nothing(row: Row) -> None:
    assert hash_row(row).prompt == NO_PROMPT
    assert not len(find_contradictions(hashes(NO_PROMPT, NO_PROMPT), hashes(1, 2)).row)


@given(st.lists(st.integers(0, 5), max_size=40))
def test_a_row_is_repeated_if_it_stood_there_before(numbers: list[int]) -> None:
    """The result equals that of a simple loop."""
    found = find_duplicates(hashes(*numbers))
    expected = [(row, numbers.index(number)) for row, number in enumerate(numbers) if number in numbers[:row]]
    assert list(zip(found.row.tolist(), found.earlier.tolist(), strict=True)) == expected


def test_the_same_question_with_another_answer_is_found_and_with_the_same_one_is_not() -> None:
    rows = [hash_row(asked(*pair)) for pair in [("q", "a"), ("q", "a"), ("other", "b"), ("q", "b")]]
    found = find_contradictions(hashes(*(row.prompt for row in rows)), hashes(*(row.answer for row in rows)))
    assert found.row.tolist() == [3]
    assert found.earlier.tolist() == [0]


def test_a_changed_word_leaves_a_row_nearly_the_same_and_another_text_is_not() -> None:
    found = find_near_duplicates(
        sketches(TIMELINE, "Something else altogether, about apples.", TIMELINE.replace("wakes", "gets")), 0.8
    )
    assert found.row.tolist() == [2]
    assert found.earlier.tolist() == [0]


@pytest.mark.parametrize("text", ["", "a", "日本語の文章です", "🦶" * 3])
def test_any_text_has_a_sketch_and_is_like_itself(text: str) -> None:
    assert find_near_duplicates(sketches(text, text), 1.0).row.tolist() == [1]


def test_a_sketch_is_the_same_every_time() -> None:
    """The order of a set of strings in this process does not matter."""
    assert np.array_equal(sketches(TIMELINE), sketches(TIMELINE))
    assert sketches("abcdefgh")[0, :2].tolist() == [2196101723, 3450236172]


def test_rows_of_other_files_are_found_among_all_of_them() -> None:
    found = is_known(hashes(5, 1, 9), [hashes(), hashes(1, 2, 3), hashes(9)])
    assert found.tolist() == [False, True, True]


def test_the_share_that_is_held_out_grows_and_never_lets_a_row_go() -> None:
    """The same share selects the same rows, and a larger share more of them."""
    few, more = ({number for number in range(1, 20_001) if is_in_holdout(number, share)} for share in (0.01, 0.1))
    assert few < more
    assert len(few) == pytest.approx(200, rel=0.3)
    assert len(more) == pytest.approx(2000, rel=0.1)
