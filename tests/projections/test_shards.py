"""Waiting jobs in shards: each is found in its own shard, whatever their number."""

from __future__ import annotations

import hashlib

import pytest

from core.job import Job
from core.structures.maps import Map
from core.structures.queue import Place
from projections.shards import JOBS_IN_A_SHARD, Shards, shards_of


def places(count: int) -> dict[str, Place]:
    ids = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
    return {job: Place(Job(id=job, name=job[:4], size_bytes=1, priority="low"), ahead=ids[0]) for job in ids}


@pytest.mark.parametrize("count", [1, JOBS_IN_A_SHARD, JOBS_IN_A_SHARD + 1, 1000, 10_000])
def test_every_job_is_found_and_no_other(count: int) -> None:
    """One by one and all together, as it was; the parts lie anywhere in the data."""
    made = places(count)
    lines = shards_of(iter(made.items()), count)
    shards = Shards(b"before\n" + b"\n".join(lines), len(b"before\n"), [len(line) for line in lines], count)
    assert len(shards) == count
    assert all(shards.get(job) == place for job, place in made.items())
    assert shards.get(hashlib.sha256(b"another").hexdigest()) is None
    assert dict(shards.items()) == made


def test_looking_one_up_reads_one_part() -> None:
    """Of ten thousand jobs, some dozens are decoded."""
    made = places(10_000)
    lines = shards_of(iter(made.items()), len(made))
    shards = Shards(b"\n".join(lines), 0, [len(line) for line in lines], len(made))
    job = next(iter(made))
    assert shards.get(job) is shards.get(job)
    assert sum(map(len, shards._read.values())) < 4 * JOBS_IN_A_SHARD


def test_an_empty_queue_has_no_parts() -> None:
    """And a map that is emptied holds on to none."""
    assert shards_of(iter(()), 0) == []
    made = places(2)
    lines = shards_of(iter(made.items()), 2)
    lying = Map.over(Shards(b"\n".join(lines), 0, [len(line) for line in lines], 2))
    for job in made:
        lying = lying.remove(job)
    assert lying == Map()
    assert lying._ground is None
