"""The encoded examples of a file, in memory."""

from __future__ import annotations

from array import array

from gpu.data.encode import Encoded


class Tokens:
    """The encoded rows of a file, end to end in flat arrays: 5 bytes a token, whatever the number of rows."""

    def __init__(self) -> None:
        self.ids = array("i")
        self.learned = bytearray()
        self.ends = array("q", [0])
        self.truncated_rows = 0

    def append(self, row: Encoded) -> None:
        """Add a row at the end. The first token of a row is never learned: nothing predicts it."""
        self.ids.extend(row.ids)
        self.learned += bytes([0, *row.learned[1:]])
        self.ends.append(len(self.ids))
        self.truncated_rows += row.truncated

    def __len__(self) -> int:
        return len(self.ends) - 1

    @property
    def trained_tokens(self) -> int:
        return self.learned.count(1)

    def length(self, row: int) -> int:
        """Tokens of `row`."""
        return self.ends[row + 1] - self.ends[row]

    def trained_in(self, row: int) -> int:
        """Tokens of `row` that are learned."""
        return self.learned.count(1, *self.span(row))

    def span(self, row: int) -> tuple[int, int]:
        """Where the tokens of `row` begin and end in the arrays."""
        return self.ends[row], self.ends[row + 1]
