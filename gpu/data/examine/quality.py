"""What can be said of rows without understanding them: the same, nearly the same, and the same question answered
otherwise. Nothing here knows a language.

A row is known by 8 bytes of a hash over what it says, whatever format it came in: two of a billion rows share them by
chance with a probability of three in a hundred, and then one warning is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from gpu.data.format.example import Example, Row, Text

PIECE_CHARACTERS = 5
"""Long enough that two texts of one language do not share most of them, short enough that a changed word costs few."""

SKETCH_NUMBERS = 64
"""Of a MinHash: the similarity is estimated to within about ±0.06 (1/√64 of its spread)."""

SKETCH_SEED = 20
BANDS = 16
"""Of four numbers each: two rows that are alike to 0.85 share one with a probability of 0.99, to 0.5 of 0.64; and those
are held against each other in full."""

NO_PROMPT = 0
"""Of rows that are no question and answer."""

Hashes = NDArray[np.uint64]
Sketches = NDArray[np.uint32]


class Identity(NamedTuple):
    """What a row says, as numbers."""

    content: int
    prompt: int
    """What stands before the last message that is learned; NO_PROMPT where there is no such thing."""
    answer: int


class Pairs(NamedTuple):
    """Rows that are somehow like an earlier one, by their places in the file's order; the first of them first."""

    row: NDArray[np.int64]
    earlier: NDArray[np.int64]
    """What each is like."""


def identity(row: Row) -> Identity:
    """The same for the same meaning: neither the place in the file nor the order of keys counts."""
    match row:
        case Text():
            return Identity(_hash(row.text), NO_PROMPT, 0)
        case Example():
            says = [row.messages, row.train, row.tools]
            content = _hash(says if row.template_kwargs is None else [*says, row.template_kwargs])
            last = max((place for place, trained in enumerate(row.train) if trained), default=None)
            if last is None:
                return Identity(content, NO_PROMPT, 0)
            return Identity(content, _hash([row.messages[:last], row.tools]), _hash(row.messages[last]))
        case _:
            return Identity(_hash([row.ids, row.trained]), NO_PROMPT, 0)


def _hash(value: object) -> int:
    digest = hashlib.blake2b(msgspec.json.encode(value, order="sorted"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def sketch(row: Row) -> bytes:
    """A MinHash of the five-letter pieces of what a row says: https://en.wikipedia.org/wiki/MinHash. Two rows' sketches
    agree in as many of their SKETCH_NUMBERS numbers as their sets of pieces are alike."""
    text = _said(row)
    pieces = {text[at : at + PIECE_CHARACTERS] for at in range(max(1, len(text) - PIECE_CHARACTERS + 1))}
    made = RMinHash(num_perm=SKETCH_NUMBERS, seed=SKETCH_SEED)
    made.update(list(pieces))
    return np.asarray(made.digest(), dtype="<u4").tobytes()


def _said(row: Row) -> str:
    match row:
        case Text():
            return row.text
        case Example():
            return "\n".join(message["content"] for message in row.messages)
        case _:
            return " ".join(map(str, row.ids))


def repeated(content: Hashes) -> Pairs:
    """The rows that an earlier one was the same as."""
    order = np.argsort(content, kind="stable")
    begins = np.ones(len(content), dtype=bool)
    begins[1:] = content[order[1:]] != content[order[:-1]]
    first = order[np.maximum.accumulate(np.where(begins, np.arange(len(content)), 0))]
    row, earlier = order[~begins], first[~begins]
    in_order = np.argsort(row)
    return Pairs(row[in_order], earlier[in_order])


def contradicting(prompt: Hashes, answer: Hashes) -> Pairs:
    """The rows whose prompt was answered otherwise before; beside each the first with that prompt."""
    row, earlier = repeated(prompt)
    otherwise = (prompt[row] != NO_PROMPT) & (answer[row] != answer[earlier])
    return Pairs(row[otherwise], earlier[otherwise])


def nearly_the_same(sketches: Sketches, similarity: float) -> Pairs:
    """The rows that are at least so similar to an earlier one; those that are the same count too.

    Candidates share one band of numbers: https://en.wikipedia.org/wiki/Locality-sensitive_hashing. Each is held against
    the first row that has that band.
    """
    rows = len(sketches)
    earlier = np.full(rows, rows, dtype=np.int64)
    width = SKETCH_NUMBERS // BANDS
    for band in range(BANDS):
        part = np.ascontiguousarray(sketches[:, band * width : (band + 1) * width])
        whole = part.view(f"V{width * part.itemsize}").ravel()
        _, first, group = np.unique(whole, return_index=True, return_inverse=True)
        candidate = first[group]
        of_row = np.flatnonzero(candidate < np.arange(rows))
        alike = (sketches[of_row] == sketches[candidate[of_row]]).mean(axis=1) >= similarity
        np.minimum.at(earlier, of_row[alike], candidate[of_row[alike]])
    row = np.flatnonzero(earlier < rows)
    return Pairs(row, earlier[row])


def known_among(content: Hashes, known: Sequence[Hashes]) -> NDArray[np.bool_]:
    """For each row whether it is among the (sorted) rows of any of the others."""
    found = np.zeros(len(content), dtype=bool)
    for others in known:
        if len(others):
            at = np.minimum(np.searchsorted(others, content), len(others) - 1)
            found |= others[at] == content
    return found


def is_among(content: int, known: Hashes) -> bool:
    """Whether a row that says this is among those; they are sorted."""
    at = int(np.searchsorted(known, np.uint64(content)))
    return at < len(known) and int(known[at]) == content


def is_held_out(content: int, share: float) -> bool:
    """Whether a row is among the share that is never trained on: decided by what it says alone."""
    mixed = int.from_bytes(hashlib.blake2b(content.to_bytes(8, "little"), person=b"held out", digest_size=8).digest())
    return mixed < share * 2**64
