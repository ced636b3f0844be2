"""The waiting jobs of a snapshot, in shards: a lookup decodes one shard and not a hundred thousand jobs.

Shard n holds the jobs whose ids begin with n in hexadecimal. Ids are hashes, so all shards have about the same size. A
shard is one line of JSON and stays bytes until one of its jobs is looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from core.structures.queue import Place

JOBS_IN_A_SHARD = 32
"""A shard of this size is decoded in about ten microseconds; a hundred thousand jobs need four thousand shards."""

MOST_DIGITS = 4
"""At most 65,536 shards."""


def shards_of(places: Iterator[tuple[str, Place]], count: int) -> list[bytes]:
    """The shards of `count` places, as lines of JSON."""
    if not count:
        return []
    digits = 0
    while 16**digits * JOBS_IN_A_SHARD < count and digits < MOST_DIGITS:
        digits += 1
    shards: list[list[Place]] = [[] for _ in range(16**digits)]
    for job_id, place in places:
        shards[_number(job_id, digits)].append(place)
    return [_encoder.encode(shard) for shard in shards]


class Shards:
    """A `core.structures.maps.Ground` that reads places from the lines of `shards_of`, from `offset` on in `data`."""

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
        """The place of a job; None: it does not wait. Raises msgspec.MsgspecError if the shard is damaged."""
        return self._shard(_number(key, self._digits)).get(key)

    def items(self) -> Iterator[tuple[str, Place]]:
        """All places by job id. Raises as `get`."""
        for number in range(len(self._ends) - 1):
            yield from self._shard(number).items()

    def _shard(self, number: int) -> dict[str, Place]:
        shard = self._read.get(number)
        if shard is None:
            line = self._data[self._ends[number] : self._ends[number + 1] - 1]
            shard = self._read[number] = {place.job.id: place for place in _decoder.decode(line)}
        return shard


def _number(job_id: str, digits: int) -> int:
    return int(job_id[:digits], 16) if digits else 0


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[Place])
