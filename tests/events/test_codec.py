"""What stands on disk is pinned, reads back as it was, and is never mistaken for something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events import codec, kinds
from events.codec import current_version, decode, decode_record, encode, kind_of
from events.errors import UnknownEvent, UnwritableEvent
from events.kinds import EVENT_TYPES, AnyEvent
from events.upcasters import ALIASES
from tests.events.examples import EVENTS, JOB

GOLDEN = Path(__file__).parent / "golden" / "events.jsonl"


def as_line(event: bytes) -> bytes:
    """A journal line around an event."""
    return (
        b'{"seq":7,"at":"2026-11-22T03:00:00.123456Z","durable":6,"prev":"0a0b0c0d","event":'
        + event
        + (b',"crc":"01020304"}')
    )


@pytest.fixture
def lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `job_skipped` had once been version 0, its job called `id`."""

    def upcast(fields: dict[str, Any]) -> dict[str, Any]:
        return {**{name: value for name, value in fields.items() if name != "id"}, "job": fields["id"]}

    monkeypatch.setattr(codec, "UPCASTERS", {("job_skipped", 0): upcast})


def test_the_bytes_of_every_kind_and_version_are_pinned(golden: Callable[[Path, str], None]) -> None:
    """No change of code changes what is written: a line that differs needs a new version, not a new golden file.

    Lines of earlier versions and kinds stay when the file is rewritten: they are what the upcasters and aliases are
    for.
    """
    present = {kind_of(kind): current_version(kind) for kind in EVENT_TYPES}
    written = GOLDEN.read_text(encoding="utf-8").splitlines() if GOLDEN.exists() else []
    earlier = [
        line
        for line in written
        if (fields := msgspec.json.decode(line))["kind"] in ALIASES or fields["v"] < present[fields["kind"]]
    ]
    golden(GOLDEN, "".join(f"{line}\n" for line in [*earlier, *(encode(event).decode() for event in EVENTS)]))


def test_every_kind_and_version_that_was_ever_written_is_in_the_golden_file() -> None:
    """A kind without golden bytes could change its shape unnoticed."""
    lines = [msgspec.json.decode(line) for line in GOLDEN.read_bytes().splitlines()]
    old_names = {present: old for old, present in ALIASES.items()}
    written = {
        (name, v)
        for kind in EVENT_TYPES
        for name in {kind_of(kind), old_names.get(kind_of(kind), kind_of(kind))}
        for v in range(1, current_version(kind) + 1)
    }
    assert written == {(fields["kind"], fields["v"]) for fields in lines}


def test_golden_bytes_are_read() -> None:
    """Whatever an earlier keepstep wrote, this one understands."""
    for line in GOLDEN.read_bytes().splitlines():
        assert isinstance(decode(line), EVENT_TYPES)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: kind_of(event))
def test_an_event_reads_back_as_it_was_written(event: AnyEvent) -> None:
    """Alone, and inside a journal line."""
    assert decode(encode(event)) == event
    assert decode_record(as_line(encode(event))).event == event


def test_a_record_carries_the_fields_of_its_line() -> None:
    """Position, time and chain come from the line; `more` is false where it is not said."""
    record = decode_record(as_line(encode(kinds.Resumed())))
    assert (record.seq, record.at, record.durable) == (7, "2026-11-22T03:00:00.123456Z", 6)
    assert (record.prev, record.crc, record.more) == ("0a0b0c0d", "01020304", False)


def test_the_kind_comes_first_in_the_bytes() -> None:
    """A person who reads the journal sees at once what a line is about."""
    assert all(encode(event).startswith(b'{"kind":"%b","v":' % kind_of(event).encode()) for event in EVENTS)


def test_a_number_that_json_cannot_carry_is_refused() -> None:
    """A raw NaN would be written as null and come back as nothing."""
    event = kinds.DaemonStarted(pid=1, process_started_at=float("nan"), boot_id="", host="", keepstep="")
    with pytest.raises(UnwritableEvent, match="daemon_started"):
        encode(event)


def test_a_raw_infinite_loss_is_refused() -> None:
    """Losses go through `number` first; one that did not is a bug, found before it is journaled."""
    step = next(event for event in EVENTS if isinstance(event, kinds.StepReached))
    with pytest.raises(UnwritableEvent):
        encode(msgspec.structs.replace(step, loss=float("inf")))


def test_a_lone_surrogate_is_refused() -> None:
    """Half a character is no text; it comes from file names that are not UTF-8."""
    with pytest.raises(UnwritableEvent):
        encode(kinds.FileDuplicate(job=JOB, name="\udcff.jsonl"))


def test_what_would_read_back_as_something_else_is_refused() -> None:
    """A list where a tuple belongs is written without complaint, and is not what comes back."""
    started = next(event for event in EVENTS if isinstance(event, kinds.TrainingStarted))
    with pytest.raises(UnwritableEvent, match="would read back as something else"):
        encode(msgspec.structs.replace(started, changed=["torch: 2.8 → 2.9"]))


def test_an_id_of_the_wrong_form_is_refused() -> None:
    """The bounds of a type hold for what is written as well."""
    with pytest.raises(UnwritableEvent):
        encode(kinds.JobSkipped(job="short"))


@pytest.mark.parametrize(
    ("data", "kind", "version"),
    [
        (b'{"kind":"dreamt","v":1}', "dreamt", 1),
        (b'{"kind":"resumed","v":2}', "resumed", 2),
        (b'{"kind":"resumed","v":"new"}', "resumed", "new"),
        (b'{"kind":"resumed","v":0}', "resumed", 0),
        (b'{"kind":"resumed","v":1,"why":"new field"}', "resumed", 1),
        (b'{"kind":"job_skipped","v":1}', "job_skipped", 1),
    ],
)
def test_what_this_program_cannot_read_is_named(data: bytes, kind: str, version: object) -> None:
    """A newer kind, version or field is never guessed at, alone or in a line."""
    for read in (lambda: decode(data), lambda: decode_record(as_line(data))):
        with pytest.raises(UnknownEvent) as caught:
            read()
        assert (caught.value.kind, caught.value.version) == (kind, version)


def test_a_line_that_is_no_record_is_no_unknown_event() -> None:
    """Garbage is the journal's business: its verdict must not be that a newer program wrote it."""
    for line in (b"{}", b"[]", b'{"seq":1}', b"garbage"):
        with pytest.raises(msgspec.MsgspecError):
            decode_record(line)


@pytest.mark.usefixtures("lifted")
def test_an_old_shape_is_lifted_to_the_present_one() -> None:
    """Stored bytes stay as they are; a pure function of dicts brings them up to date."""
    old = b'{"kind":"job_skipped","v":0,"id":"%b"}' % JOB.encode()
    assert decode(old) == kinds.JobSkipped(job=JOB)
    assert decode_record(as_line(old)).event == kinds.JobSkipped(job=JOB)


@pytest.mark.usefixtures("lifted")
def test_present_shapes_do_not_pass_through_an_upcaster() -> None:
    """Lifting is for old versions only."""
    assert decode(encode(kinds.JobSkipped(job=JOB))) == kinds.JobSkipped(job=JOB)


def test_a_full_disk_of_version_1_wanted_any_room() -> None:
    """The first shape did not say how much; the bytes are as they were written then."""
    (old,) = [line for line in GOLDEN.read_bytes().splitlines() if b'"storage_exhausted","v":1' in line]
    lifted = kinds.StorageExhausted(message="the disk is full: journal/00000001.jsonl", wanted_bytes=0)
    assert decode(old) == lifted
    assert decode_record(as_line(old)).event == lifted


def test_upcasters_lead_to_the_present_version_without_a_gap() -> None:
    """Each one known lifts a kind that exists, from a version below its present one, by one."""
    present = {kind_of(kind): current_version(kind) for kind in EVENT_TYPES}
    for kind, version in codec.UPCASTERS:  # type: ignore[attr-defined]
        assert version < present[kind]
        assert version + 1 == present[kind] or (kind, version + 1) in codec.UPCASTERS  # type: ignore[attr-defined]
