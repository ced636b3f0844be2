"""The snapshot: the folded state on disk, so that a start replays the end of the journal instead of a year.

It is a cache. One that is unreadable, written by other code, or at a position that the journal does not have, is
ignored. It is also a witness: it proves how far the journal had reached.

The file is JSON Lines: the fold, then the waiting jobs in shards (`shards.py`), then a checksum. Only the first line is
decoded at once, so a command starts as quickly with a hundred thousand waiting jobs as with ten.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec import Struct
from msgspec.structs import replace

import core
import events
import projections
from core.structures.maps import Map
from core.structures.queue import Place
from journal import durable
from journal.storage import REAL, Storage
from projections.checksum import UNREADABLE, has_checksum, with_checksum
from projections.progress import Folded
from projections.shards import Shards, shards_of

LONGEST_BYTES = 1 << 30
"""A million waiting jobs take about 300 MB."""


class Snapshot(Struct, frozen=True):
    """A fold, the position of its last record, and the version of the code that folded it."""

    seq: int
    crc: str
    segment: int
    offset: int
    reducer: str
    folded: Folded
    """On disk its queue is empty; the waiting jobs are in the shards."""


class _First(Struct, frozen=True):
    """The first line: the snapshot, the number of waiting jobs, and the length of each shard in bytes."""

    snapshot: Snapshot
    waiting: int
    shards: list[int]


@cache
def reducer_version() -> str:
    """A hash of the code that folds, so that a change of the code invalidates old snapshots."""
    digest = hashlib.sha256()
    for package in (events, core, projections):
        for source in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def write_snapshot(path: Path, snapshot: Snapshot, *, storage: Storage = REAL) -> None:
    """Replace the snapshot at `path`, without a sync: a lost one only costs a longer replay."""
    places = snapshot.folded.state.queue.places
    shards = shards_of(places.items(), len(places))
    first = _First(_with_places(snapshot, Map()), len(places), [len(shard) for shard in shards])
    last = b'{"seq":%d}' % snapshot.seq
    data = with_checksum(b"\n".join([_encoder.encode(first), *shards, last]))
    durable.write_atomically(path, data, sync=False, storage=storage)


def read_snapshot(path: Path, *, storage: Storage = REAL) -> Snapshot | None:
    """The snapshot at `path`; None if it is missing, damaged, or folded by other code."""
    try:
        data = durable.read_file(path, bytes_max=LONGEST_BYTES, storage=storage)
        end = data.find(b"\n")
        first = _decoder.decode(data[:end]) if has_checksum(data) else None
    except UNREADABLE:
        return None
    if first is None or first.snapshot.reducer != reducer_version():
        return None
    if not first.waiting:
        return first.snapshot
    return _with_places(first.snapshot, Map.over(Shards(data, end + 1, first.shards, first.waiting)))


def _with_places(snapshot: Snapshot, places: Map[Place]) -> Snapshot:
    state = snapshot.folded.state
    changed = replace(state, queue=replace(state.queue, places=places))
    return replace(snapshot, folded=replace(snapshot.folded, state=changed))


def _encode(value: Any) -> Any:
    if isinstance(value, Map):
        return dict(value.items())
    raise NotImplementedError(f"no form on disk for {type(value)}")


def _decode(kind: Any, value: Any) -> Any:
    (values,) = get_args(kind)
    return Map(msgspec.convert(value, dict[str, values], dec_hook=_decode))  # type: ignore[valid-type]  # known at run time


_encoder = msgspec.json.Encoder(enc_hook=_encode)
_decoder = msgspec.json.Decoder(_First, dec_hook=_decode)
