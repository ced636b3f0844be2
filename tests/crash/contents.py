"""What is in a file: on disk for sure, as the processes see it, and what a power cut may leave between the two."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from functools import cached_property

SECTOR_BYTES = 512
VARIANTS_MAX = 10  # of one file in one moment: old, new, zeros, and the telling ways to be torn


class Blob:
    """Bytes that know their SHA-256; equal ones are one object."""

    _known: dict[bytes, Blob] = {}  # noqa: RUF012 - one for all

    def __init__(self, data: bytes) -> None:
        self.data = data

    @classmethod
    def of(cls, data: bytes) -> Blob:
        found = cls._known.get(data)
        if found is None:
            found = cls._known[data] = cls(data)
        return found

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


Tree = dict[str, Blob | None]
"""What stands in a home: path to content, None for a directory."""


class File:
    """Content: on disk for sure, and as the processes see it."""

    def __init__(self) -> None:
        self.durable = self.now = b""
        self._variants: tuple[bytes, bytes, list[Blob]] | None = None

    @property
    def dirty(self) -> bool:
        return self.durable != self.now

    def variants(self) -> list[Blob]:
        """What a power cut may leave: the old first, the new last."""
        if self._variants is None or self._variants[:2] != (self.durable, self.now):
            made = [Blob.of(data) for data in torn(self.durable, self.now)]
            self._variants = (self.durable, self.now, made)
        return self._variants[2]


def torn(old: bytes, new: bytes) -> list[bytes]:
    """`old`, ways in which the writing of `new` over it may have come to an end, `new`. No two are the same."""
    size = max(len(old), len(new))
    base = old.ljust(len(new), b"\0")
    changed = [at for at in range(0, size, SECTOR_BYTES) if base[at : at + SECTOR_BYTES] != new[at : at + SECTOR_BYTES]]

    def mixed(sectors: Iterable[int]) -> bytes:
        data = bytearray(base)
        for at in sectors:
            data[at : at + SECTOR_BYTES] = new[at : at + SECTOR_BYTES]
        return bytes(data)

    some: list[bytes] = [base]
    if len(changed) <= 3:
        some += [mixed(s) for n in range(1, len(changed)) for s in itertools.combinations(changed, n)]
    else:
        half = len(changed) // 2
        some += [mixed(changed[:half]), mixed(changed[half:]), mixed(changed[1:]), mixed(changed[:-1])]
        some += [mixed(changed[::2])]
    for at in changed[1:2] + changed[-1:]:
        if len(old) <= at < len(new):
            some.append(new[:at])
    return list(dict.fromkeys([old, *some[: VARIANTS_MAX - 2], new]))
