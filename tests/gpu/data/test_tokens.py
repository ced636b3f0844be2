"""The store of encoded examples."""

from __future__ import annotations

from gpu.data.encode import Encoded
from gpu.data.tokens import Tokens


def test_rows_stand_end_to_end_and_are_counted() -> None:
    tokens = Tokens()
    tokens.append(Encoded([5, 6, 7], [0, 1, 1], False))
    tokens.append(Encoded([5, 6], bytes([0, 1]), True))
    assert [tokens.length(row) for row in range(len(tokens))] == [3, 2]
    assert [tokens.span(row) for row in range(len(tokens))] == [(0, 3), (3, 5)]
    assert tokens.truncated_rows == 1


def test_the_first_token_of_a_row_is_never_counted_as_learned() -> None:
    tokens = Tokens()
    tokens.append(Encoded([5, 6, 7], [1, 1, 1], False))
    tokens.append(Encoded([5, 6], [1, 1], False))
    assert (tokens.trained_in(0), tokens.trained_in(1), tokens.trained_tokens) == (2, 1, 3)
