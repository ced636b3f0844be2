"""Events to bytes and back.

Reading has a fast way and a careful one. The fast way is one typed decode of the whole journal line. Only when that
fails does the careful way look at kind and version, lift old shapes to the present one, or say by name what it is
that this program cannot read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import Struct

from events.errors import UnknownEvent, UnwritableEvent
from events.event import Event
from events.kinds import EVENT_TYPES, AnyEvent

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]


def _storage_exhausted_v1(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 1 did not say how much room was wanted: any will do."""
    return {**fields, "wanted_bytes": 0}


def _checkpoint_pruned_v1(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 1 did not say how much came free; `checkpoint_committed` has it."""
    return {**fields, "size_bytes": 0}


def _attempt_started_v1(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 1 knew no `use_rslora`, `use_dora` and `keep_every_steps`: what they are now by default, it did."""
    return fields


def _attempt_started_v2(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 2 knew nothing of `qlora`, and of [data] neither `long` nor `bad_rows` nor `packing`: as they are now by
    default, it did."""
    return fields


def _attempt_started_v3(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 3 knew no [guard]: a spike of the loss was never looked for, as it is not by default."""
    return fields


def _attempt_started_v4(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 4 knew no [evaluation]: nothing was evaluated."""
    return {**fields, "settings": {**fields["settings"], "evaluation": {"rows": 0}}}


def _attempt_started_v5(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 5 knew no [model] `revision`: a hub id meant what the cache had, as it does by default."""
    return fields


def _file_enqueued_v1(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 1 knew of no second pass over the same bytes."""
    return {**fields, "again": False}


def _job_prepared_v1(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 1 left no row out and cut none into several, and did not say how much padding there is: 0 stands for
    both."""
    return fields


def _training_started_v1(fields: dict[str, Any]) -> dict[str, Any]:
    """Version 1 did not say what is trained of the model."""
    return fields


UPCASTERS: Mapping[tuple[str, int], Upcaster] = {
    ("attempt_started", 1): _attempt_started_v1,
    ("attempt_started", 2): _attempt_started_v2,
    ("attempt_started", 3): _attempt_started_v3,
    ("attempt_started", 4): _attempt_started_v4,
    ("attempt_started", 5): _attempt_started_v5,
    ("file_enqueued", 1): _file_enqueued_v1,
    ("job_prepared", 1): _job_prepared_v1,
    ("training_started", 1): _training_started_v1,
    ("storage_exhausted", 1): _storage_exhausted_v1,
    ("checkpoint_pruned", 1): _checkpoint_pruned_v1,
}
"""(kind, version) → a pure function from that version's dict to the next version's. A kind that is not in it has been
at version 1 from the beginning."""


class Record(Struct, frozen=True, gc=False):
    """One line of the journal, its event understood. The journal itself checks `prev` and `crc`."""

    seq: int
    at: str
    durable: int
    prev: str
    event: AnyEvent
    crc: str
    more: bool = False


_encoder = msgspec.json.Encoder()
_event_decoder = msgspec.json.Decoder(AnyEvent)
_record_decoder = msgspec.json.Decoder(Record)


def kind_of(event: Event | type[Event]) -> str:
    """The pinned tag, as it stands on disk."""
    return str(event.__struct_config__.tag)


def current_version(kind: type[Event]) -> int:
    """The version that this program writes for an event type."""
    return int(get_args(get_type_hints(kind)["v"])[0])


_TYPES: Mapping[str, type[Event]] = {kind_of(kind): kind for kind in EVENT_TYPES}


def encode(event: Event) -> bytes:
    """The JSON of an event, proven to read back as the same event.

    Raises UnwritableEvent for a number or a text that JSON cannot carry (NaN outside `Number`, a lone surrogate).
    """
    try:
        data = _encoder.encode(event)
        back: Event = _event_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise UnwritableEvent(f"{kind_of(event)} cannot be journaled: {error}") from error
    if back != event:
        raise UnwritableEvent(f"{kind_of(event)} would read back as something else: {event!r} became {back!r}")
    return data


def decode(data: bytes) -> AnyEvent:
    """The event in `data`, lifted to its present shape. Raises UnknownEvent."""
    try:
        event: AnyEvent = _event_decoder.decode(data)
    except msgspec.MsgspecError:
        event = _decode_carefully(msgspec.json.decode(data))
    return event


def decode_record(line: bytes) -> Record:
    """The record in a journal line (without its line end). Raises UnknownEvent, or msgspec.MsgspecError if it is
    no record at all."""
    try:
        return _record_decoder.decode(line)
    except msgspec.MsgspecError:
        fields = msgspec.json.decode(line)
        if not isinstance(fields, dict) or not isinstance(fields.get("event"), dict):
            raise
        event = _decode_carefully(fields.pop("event"))
        return msgspec.convert({**fields, "event": msgspec.to_builtins(event)}, Record)


def _decode_carefully(fields: Any) -> AnyEvent:
    kind, version = str(fields.get("kind")), fields.get("v")
    known = _TYPES.get(kind)
    if known is None:
        raise UnknownEvent(kind, version, "this program knows no such kind")
    if not isinstance(version, int) or version > current_version(known):
        raise UnknownEvent(kind, version, f"this program knows versions up to {current_version(known)}")
    while version < current_version(known):
        upcaster = UPCASTERS.get((kind, version))
        if upcaster is None:
            raise UnknownEvent(kind, version, f"nothing lifts version {version} to {version + 1}")
        fields = {**upcaster(fields), "v": version + 1}
        version += 1
    try:
        event: AnyEvent = msgspec.convert(fields, AnyEvent)
    except msgspec.ValidationError as error:
        raise UnknownEvent(kind, version, str(error)) from error
    return event
