"""Find duplicates, near-duplicates and contradicting answers among rows, in any language.

A row is identified by an 8-byte hash of its content, whatever format it came in. Two of a billion rows share a hash by
chance with a probability of three in a hundred; then one warning is wrong.
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

SHINGLE_CHARACTERS = 5
"""Characters of a shingle: long enough that two texts of one language do not share most of them, short enough that a
changed word costs few."""

SKETCH_NUMBERS = 64
"""Numbers of a MinHash. They estimate the similarity to within about ±0.06 (1/√64 of its spread)."""

SKETCH_SEED = 20
BANDS = 16
"""Bands of four numbers each. Two rows with a similarity of 0.85 share a band with a probability of 0.99, with 0.5 of
0.64; all rows that share a band are compared in full."""

NO_PROMPT = 0
"""Prompt hash of a row without a prompt and an answer."""

Hashes = NDArray[np.uint64]
Sketches = NDArray[np.uint32]


class RowHashes(NamedTuple):
    """Hashes of the content of a row."""

    content: int
    prompt: int
    """Hash of the messages before the last trained one; NO_PROMPT if there is none."""
    answer: int


class RowPairs(NamedTuple):
    """Rows that match an earlier row, by their indices in the file."""

    row: NDArray[np.int64]
    earlier: NDArray[np.int64]
    """For each, the first row that it matches."""


def hash_row(row: Row) -> RowHashes:
    """Hash a row. Rows with the same content have the same hashes, whatever their line and the order of their keys."""
    match row:
        case Text():
            return RowHashes(_hash(row.text), NO_PROMPT, 0)
        case Example():
            says = [row.messages, row.train, row.tools]
            content = _hash(says if row.template_kwargs is None else [*says, row.template_kwargs])
            last = max((place for place, trained in enumerate(row.train) if trained), default=None)
            if last is None:
                return RowHashes(content, NO_PROMPT, 0)
            return RowHashes(content, _hash([row.messages[:last], row.tools]), _hash(row.messages[last]))
        case _:
            return RowHashes(_hash([row.ids, row.trained]), NO_PROMPT, 0)


def _hash(value: object) -> int:
    digest = hashlib.blake2b(msgspec.json.encode(value, order="sorted"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def min_hash(row: Row) -> bytes:
    """Return a MinHash of the shingles of a row's text: https://en.wikipedia.org/wiki/MinHash. The share of equal
    numbers in two of them estimates the similarity of the rows."""
    text = _row_text(row)
    shingles = {text[at : at + SHINGLE_CHARACTERS] for at in range(max(1, len(text) - SHINGLE_CHARACTERS + 1))}
    sketch = RMinHash(num_perm=SKETCH_NUMBERS, seed=SKETCH_SEED)
    sketch.update(list(shingles))
    return np.asarray(sketch.digest(), dtype="<u4").tobytes()


def _row_text(row: Row) -> str:
    match row:
        case Text():
            return row.text
        case Example():
            return "\n".join(message["content"] for message in row.messages)
        case _:
            return " ".join(map(str, row.ids))


def find_duplicates(content: Hashes) -> RowPairs:
    """Return the rows that are identical to an earlier one."""
    order = np.argsort(content, kind="stable")
    begins = np.ones(len(content), dtype=bool)
    begins[1:] = content[order[1:]] != content[order[:-1]]
    first = order[np.maximum.accumulate(np.where(begins, np.arange(len(content)), 0))]
    row, earlier = order[~begins], first[~begins]
    in_order = np.argsort(row)
    return RowPairs(row[in_order], earlier[in_order])


def find_contradictions(prompt: Hashes, answer: Hashes) -> RowPairs:
    """Return the rows whose prompt has another answer in the first row with that prompt."""
    row, earlier = find_duplicates(prompt)
    otherwise = (prompt[row] != NO_PROMPT) & (answer[row] != answer[earlier])
    return RowPairs(row[otherwise], earlier[otherwise])


def find_near_duplicates(sketches: Sketches, similarity: float) -> RowPairs:
    """Return the rows that are at least this similar to an earlier one, identical rows included.

    Candidates share one band of numbers: https://en.wikipedia.org/wiki/Locality-sensitive_hashing. Each is compared
    with the first row that has the band.
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
    return RowPairs(row, earlier[row])


def is_known(content: Hashes, known: Sequence[Hashes]) -> NDArray[np.bool_]:
    """Return, for each row, True if any of the other (sorted) hashes contain it."""
    found = np.zeros(len(content), dtype=bool)
    for others in known:
        if len(others):
            at = np.minimum(np.searchsorted(others, content), len(others) - 1)
            found |= others[at] == content
    return found


def contains(hashes: Hashes, content: int) -> bool:
    """True if `hashes`, which are sorted, contain this one."""
    at = int(np.searchsorted(hashes, np.uint64(content)))
    return at < len(hashes) and int(hashes[at]) == content


def is_in_holdout(content: int, share: float) -> bool:
    """True if a row belongs to the held-out share; only its content decides."""
    mixed = int.from_bytes(hashlib.blake2b(content.to_bytes(8, "little"), person=b"held out", digest_size=8).digest())
    return mixed < share * 2**64
