"""The waiting jobs in a snapshot, in so many parts that looking one up reads a few of them and not a hundred thousand.

Part n holds the jobs whose ids begin with n, written in hexadecimal: ids are hashes, so the parts are of one size. Each
is one line of JSON, and stays bytes until a job of it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from core.structures.queue import Place

JOBS_IN_A_SHARD = 32
"""A part is decoded in some ten microseconds; and the table of a hundred thousand jobs has four thousand entries."""

MOST_DIGITS = 4


def shards_of(places: Iterator[tuple[str, Place]], count: int) -> list[bytes]:
    """`count` places as lines; none for none."""
    if not count:
        return []
    digits = 0
    while 16**digits * JOBS_IN_A_SHARD < count and digits < MOST_DIGITS:
        digits += 1
    parts: list[list[Place]] = [[] for _ in range(16**digits)]
    for job_id, place in places:
        parts[_number(job_id, digits)].append(place)
    return [_encoder.encode(part) for part in parts]


class Shards:
    """The places in the lines that `shards_of` made, in `data` from `offset` on: a `core.maps.Ground`."""

    def __init__(self, data: bytes, offset: int, lengths: Sequence[int], count: int) -> None:
        self._data, self._count = memoryview(data), count
        self._digits = 0
        while 16**self._digits < len(lengths):
            self._digits += 1
        self._ends = [offset]
        for length in lengths:
            self._ends.append(self._ends[-1] + length + 1)
        self._read: dict[int, dict[str, Place]] = {}

    def __len__(self) -> int:
        return self._count

    def get(self, key: str) -> Place | None:
        """The place of this job. Raises msgspec.MsgspecError if the line is none of ours."""
        return self._part(_number(key, self._digits)).get(key)

    def items(self) -> Iterator[tuple[str, Place]]:
        """All of them. Raises as `get`."""
        for number in range(len(self._ends) - 1):
            yield from self._part(number).items()

    def _part(self, number: int) -> dict[str, Place]:
        part = self._read.get(number)
        if part is None:
            line = self._data[self._ends[number] : self._ends[number + 1] - 1]
            part = self._read[number] = {place.job.id: place for place in _decoder.decode(line)}
        return part


def _number(job_id: str, digits: int) -> int:
    return int(job_id[:digits], 16) if digits else 0


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[Place])
