"""Latencies survive the daemon, and are never used in doubt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from cli.daemon.worker.latency_stats import SAVE_EVERY_S, LatencyStats, SavedLatencies
from cli.home.identity import Identity
from cli.home.paths import Home
from core.deadlines import GAPS_KEPT, Watched
from core.structures.maps import Map
from events.settings import JobSettings, ModelSettings
from projections.checksum import has_checksum, with_checksum

ME = Identity(pid=7, process_started_at=1.0, boot_id="boot-1", host="here")
WATCHED = Watched(
    settings=JobSettings(model=ModelSettings(path="tiny")),
    environment={"device": "cpu"},
    gaps=Map({"step": (0.5,) * 8, "load": (3.0,) * 8}),
)


@pytest.fixture
def saved(home: Home) -> Home:
    """A home in which latencies were saved."""
    stats = LatencyStats(home)
    stats.load(ME, "journal-1")
    stats.save(WATCHED, at_once=True)
    return home


def loaded(home: Home, me: Identity = ME, journal: str = "journal-1") -> Watched:
    return LatencyStats(home).load(me, journal)


def edit(home: Home, **changes: object) -> None:
    """Change the content, with a correct checksum."""
    known = msgspec.json.decode(home.usual.read_bytes(), type=SavedLatencies)
    home.usual.write_bytes(with_checksum(msgspec.json.encode(replace(known, **changes))))


def test_latencies_are_loaded_by_the_next_daemon(saved: Home, caplog: pytest.LogCaptureFixture) -> None:
    """With the settings and the device that they were measured with."""
    with caplog.at_level(logging.INFO):
        assert loaded(saved) == WATCHED
    assert "step 0.5 s" in caplog.text


def test_a_home_without_the_file_starts_without_latencies_or_messages(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """The first daemon."""
    assert loaded(home) == Watched()
    assert not caplog.records


def test_after_a_boot_the_loading_time_is_measured_again(saved: Home) -> None:
    """The disk is cold; a step takes as long as before."""
    again = loaded(saved, replace(ME, boot_id="boot-2"))
    assert dict(again.gaps.items()) == {"step": (0.5,) * 8}


@pytest.mark.parametrize(
    ("me", "journal", "said"),
    [
        (replace(ME, host="there"), "journal-1", "another machine wrote it, here"),
        (ME, "journal-2", "belongs to another home"),
    ],
)
def test_latencies_of_another_machine_or_home_are_not_used(
    saved: Home, me: Identity, journal: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A home that was copied or moved."""
    assert loaded(saved, me, journal) == Watched()
    assert said in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keepstep": "0.0.1"}, "keepstep 0.0.1 wrote it"),
        ({"gaps": {"step": (-1.0,) * 8}}, "out of range"),
        ({"gaps": {"step": (1.0,) * (GAPS_KEPT + 1)}}, "out of range"),
    ],
)
def test_latencies_of_another_version_or_out_of_range_are_not_used(
    saved: Home, changes: dict[str, object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Though the checksum is right."""
    edit(saved, **changes)
    assert loaded(saved) == Watched()
    assert said in caplog.text


def test_every_flipped_byte_and_every_truncation_is_detected(saved: Home, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of a damaged file is used; an empty one, as a power cut leaves it, included."""
    whole = saved.usual.read_bytes()
    assert has_checksum(whole)
    for at in range(0, len(whole), 7):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            saved.usual.write_bytes(damaged)
            assert loaded(saved) == Watched()
    assert caplog.text.count("is not used") == 2 * len(range(0, len(whole), 7))


@pytest.mark.parametrize("content", [b"{}", b"\xff\xfe", b'{"gaps": {"sing": [1.0]}}', b"[1e999]"])
def test_a_file_of_another_shape_is_not_used(home: Home, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """For example, of a later version that has other phases."""
    home.usual.write_bytes(with_checksum(content))
    assert loaded(home) == Watched()
    assert "is not used" in caplog.text


def test_only_new_latencies_are_saved_and_rarely(saved: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most once a minute, and when a worker ends."""
    now = 1000.0
    monkeypatch.setattr(saved.clock, "monotonic", lambda: now)
    stats = LatencyStats(saved)
    watched = stats.load(ME, "journal-1")
    saved.usual.unlink()
    stats.save(watched, at_once=True)
    assert not saved.usual.exists()  # nothing is new
    watched = replace(watched, gaps=watched.gaps.insert("step", (0.6,) * 8))
    stats.save(watched)
    assert saved.usual.exists()
    saved.usual.unlink()
    watched = replace(watched, gaps=watched.gaps.insert("step", (0.7,) * 8))
    now += SAVE_EVERY_S - 1.0
    stats.save(watched)
    assert not saved.usual.exists()
    now += 1.0
    stats.save(watched)
    assert saved.usual.exists()


def test_a_failed_save_is_ignored(saved: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a cache."""
    before = saved.usual.read_bytes()

    def full(path: Path, flags: int, mode: int = 0o644) -> int:
        raise OSError(28, "No space left on device", str(path))

    stats = LatencyStats(saved)
    watched = stats.load(ME, "journal-1")
    monkeypatch.setattr(saved.storage, "open", full)
    stats.save(replace(watched, gaps=Map({"step": (9.0,) * 8})), at_once=True)
    monkeypatch.undo()
    assert saved.usual.read_bytes() == before


def test_a_daemon_saves_latencies_for_the_next_one(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """Through the real loop. An unfinished file next to it is swept."""
    drop("a.jsonl", " ".join(["ok"] * 12))
    run()
    known = msgspec.json.decode(home.usual.read_bytes(), type=SavedLatencies)
    assert len(known.gaps["step"]) >= 8
    assert known.environment == {"device": "fake"}
    unfinished = home.run / f".{home.usual.name}.0123.tmp"
    unfinished.touch()
    with caplog.at_level(logging.INFO):
        run()
    assert not unfinished.exists()
    assert "latencies are loaded from run/usual.json" in "".join(
        path.read_text(encoding="utf-8") for path in home.logs.glob("*.jsonl")
    )
