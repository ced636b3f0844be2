"""The folded state on disk, so that a start replays the tail and not the year.

A cache: whatever is doubtful about it (unreadable, written by other code, a position that the journal does not
confirm) makes it as if it were not there. It is also a witness: it remembers how far the journal had been.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec import Struct

import core
import events
import projections
from core.maps import Map
from journal import durable
from journal.storage import REAL, Storage
from projections.progress import Folded
from projections.seal import read_sealed, sealed


class Snapshot(Struct, frozen=True):
    """A fold, the record that it stands behind, and the code that folded it."""

    seq: int
    crc: str
    segment: int
    offset: int
    reducer: str
    folded: Folded


@cache
def reducer_version() -> str:
    """Names the code that folds, by its bytes: no one has to remember to raise a number."""
    digest = hashlib.sha256()
    for package in (events, core, projections):
        for source in sorted(Path(str(package.__file__)).parent.glob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def write_snapshot(path: Path, snapshot: Snapshot, *, storage: Storage = REAL) -> None:
    """Replace the snapshot at `path`. Not synced: a lost one costs a longer replay, no more."""
    durable.write_atomically(path, sealed(_encoder.encode(snapshot)), sync=False, storage=storage)


def read_snapshot(path: Path, *, storage: Storage = REAL) -> Snapshot | None:
    """The snapshot at `path`, if it is there, whole, and folded by this very code."""
    snapshot = read_sealed(path, _decoder, storage)
    return snapshot if snapshot is not None and snapshot.reducer == reducer_version() else None


def _encode(value: Any) -> Any:
    if isinstance(value, Map):
        return dict(value.items())
    raise NotImplementedError(f"no form on disk for {type(value)}")


def _decode(kind: Any, value: Any) -> Any:
    (values,) = get_args(kind)
    return Map(msgspec.convert(value, dict[str, values], dec_hook=_decode))  # type: ignore[valid-type]


_encoder = msgspec.json.Encoder(enc_hook=_encode)
_decoder = msgspec.json.Decoder(Snapshot, dec_hook=_decode)
