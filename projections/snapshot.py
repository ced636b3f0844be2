"""The folded state on disk, so that a start replays the tail and not the year.

A cache: whatever is doubtful about it (unreadable, written by other code, a position that the journal does not
confirm) makes it as if it were not there. It is also a witness: it remembers how far the journal had been.

JSON Lines: the fold, then the waiting jobs in shards (`shards.py`), then the seal over all. Only the first line is
decoded when it is read, so that a command starts as quickly with a hundred thousand jobs waiting as with ten.
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
from core.maps import Map
from core.queue import Place
from journal import durable
from journal.storage import REAL, Storage
from projections.checksum import UNREADABLE, has_checksum, with_checksum
from projections.progress import Folded
from projections.shards import Shards, shards_of

LONGEST_BYTES = 1 << 30
"""A million jobs that wait take some 300 MB."""


class Snapshot(Struct, frozen=True):
    """A fold, the record that it stands behind, and the code that folded it."""

    seq: int
    crc: str
    segment: int
    offset: int
    reducer: str
    folded: Folded
    """On disk its queue has no places: those are in the shards."""


class _First(Struct, frozen=True):
    """The first line: the snapshot, how many jobs wait, and how long each line of them is."""

    snapshot: Snapshot
    waiting: int
    shards: list[int]


@cache
def reducer_version() -> str:
    """Names the code that folds, by its bytes: no one has to remember to raise a number."""
    digest = hashlib.sha256()
    for package in (events, core, projections):
        for source in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def write_snapshot(path: Path, snapshot: Snapshot, *, storage: Storage = REAL) -> None:
    """Replace the snapshot at `path`. Not synced: a lost one costs a longer replay, no more."""
    places = snapshot.folded.state.queue.places
    shards = shards_of(places.items(), len(places))
    first = _First(_with_places(snapshot, Map()), len(places), [len(shard) for shard in shards])
    last = b'{"seq":%d}' % snapshot.seq
    data = with_checksum(b"\n".join([_encoder.encode(first), *shards, last]))
    durable.write_atomically(path, data, sync=False, storage=storage)


def read_snapshot(path: Path, *, storage: Storage = REAL) -> Snapshot | None:
    """The snapshot at `path`, if it is there, whole, and folded by this very code."""
    try:
        data = durable.read_file(path, most_bytes=LONGEST_BYTES, storage=storage)
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
    lying = replace(state, queue=replace(state.queue, places=places))
    return replace(snapshot, folded=replace(snapshot.folded, state=lying))


def _encode(value: Any) -> Any:
    if isinstance(value, Map):
        return dict(value.items())
    raise NotImplementedError(f"no form on disk for {type(value)}")


def _decode(kind: Any, value: Any) -> Any:
    (values,) = get_args(kind)
    return Map(msgspec.convert(value, dict[str, values], dec_hook=_decode))  # type: ignore[valid-type]  # known at run time


_encoder = msgspec.json.Encoder(enc_hook=_encode)
_decoder = msgspec.json.Decoder(_First, dec_hook=_decode)
