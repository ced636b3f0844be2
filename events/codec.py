"""Events to bytes and back.

Reading has a fast path and a careful one. The fast path is one typed decode of the whole journal line. Only if that
fails, the careful path looks at kind and version, lifts old names and shapes to the present ones (`upcasters.py`), or
says by name what this program cannot read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import Struct

from events.errors import UnknownEvent, UnwritableEvent
from events.event import Event
from events.kinds import EVENT_TYPES, AnyEvent
from events.upcasters import ALIASES, UPCASTERS


class Record(Struct, frozen=True, gc=False):
    """One line of the journal, with its event decoded. The journal itself checks `prev` and `crc`."""

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
    """The tag of an event, as it stands on disk."""
    return str(event.__struct_config__.tag)


def current_version(kind: type[Event]) -> int:
    """The version that this program writes for this type of event."""
    return int(get_args(get_type_hints(kind)["v"])[0])


_TYPES: Mapping[str, type[Event]] = {kind_of(kind): kind for kind in EVENT_TYPES}


def encode(event: Event) -> bytes:
    """Encode an event as JSON, and check that it reads back as the same event.

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
    """Decode an event, lifted to its present shape. Raises UnknownEvent."""
    try:
        event: AnyEvent = _event_decoder.decode(data)
    except msgspec.MsgspecError:
        event = _decode_carefully(msgspec.json.decode(data))
    return event


def decode_record(line: bytes) -> Record:
    """Decode a journal line (without its line end). Raises UnknownEvent, or msgspec.MsgspecError if it is no record."""
    try:
        return _record_decoder.decode(line)
    except msgspec.MsgspecError:
        fields = msgspec.json.decode(line)
        if not isinstance(fields, dict) or not isinstance(fields.get("event"), dict):
            raise
        event = _decode_carefully(fields.pop("event"))
        return msgspec.convert({**fields, "event": msgspec.to_builtins(event)}, Record)


def _decode_carefully(fields: Any) -> AnyEvent:
    stored_kind, version = str(fields.get("kind")), fields.get("v")
    kind = ALIASES.get(stored_kind, stored_kind)
    fields = {**fields, "kind": kind}
    known = _TYPES.get(kind)
    if known is None:
        raise UnknownEvent(stored_kind, version, "this program knows no such kind")
    if not isinstance(version, int) or version > current_version(known):
        raise UnknownEvent(stored_kind, version, f"this program knows versions up to {current_version(known)}")
    while version < current_version(known):
        upcaster = UPCASTERS.get((kind, version))
        if upcaster is None:
            raise UnknownEvent(stored_kind, version, f"nothing lifts version {version} to {version + 1}")
        fields = {**upcaster(fields), "v": version + 1}
        version += 1
    try:
        event: AnyEvent = msgspec.convert(fields, AnyEvent)
    except msgspec.ValidationError as error:
        raise UnknownEvent(stored_kind, version, str(error)) from error
    return event
