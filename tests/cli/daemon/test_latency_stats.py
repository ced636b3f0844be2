"""What is usual survives the daemon, and is never believed where there is a doubt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from cli.daemon.latency_stats import KEPT_EVERY_S, Known, LatencyStats
from cli.home.identity import Identity
from cli.home.paths import Home
from core.deadlines import GAPS_KEPT, Watched
from core.structures.maps import Map
from events.settings import JobSettings, ModelSettings
from projections.checksum import has_checksum, sealed

ME = Identity(pid=7, process_started_at=1.0, boot_id="boot-1", host="here")
WATCHED = Watched(
    settings=JobSettings(model=ModelSettings(path="tiny")),
    environment={"device": "cpu"},
    gaps=Map({"step": (0.5,) * 8, "load": (3.0,) * 8}),
)


@pytest.fixture
def kept(home: Home) -> Home:
    """A home in which it was written down."""
    usual = LatencyStats(home)
    usual.recall(ME, "journal-1")
    usual.keep(WATCHED, at_once=True)
    return home


def recalled(home: Home, me: Identity = ME, journal: str = "journal-1") -> Watched:
    return LatencyStats(home).recall(me, journal)


def edit(home: Home, **changes: object) -> None:
    """Another content, properly sealed."""
    known = msgspec.json.decode(home.usual.read_bytes(), type=Known)
    home.usual.write_bytes(sealed(msgspec.json.encode(replace(known, **changes))))


def test_what_was_learned_is_known_to_the_next_daemon(kept: Home, caplog: pytest.LogCaptureFixture) -> None:
    """With what it was learned under, so that it is forgotten where that no longer holds."""
    with caplog.at_level(logging.INFO):
        assert recalled(kept) == WATCHED
    assert "step 0.5 s" in caplog.text


def test_a_home_without_the_file_begins_with_nothing_and_says_nothing(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """The first daemon."""
    assert recalled(home) == Watched()
    assert not caplog.records


def test_behind_a_boot_loading_is_learned_anew(kept: Home) -> None:
    """The disk is cold; a step is what it was."""
    again = recalled(kept, replace(ME, boot_id="boot-2"))
    assert dict(again.gaps.items()) == {"step": (0.5,) * 8}


@pytest.mark.parametrize(
    ("me", "journal", "said"),
    [
        (replace(ME, host="there"), "journal-1", "of another machine, here"),
        (ME, "journal-2", "of another home"),
    ],
)
def test_what_was_learned_elsewhere_is_not_used(
    kept: Home, me: Identity, journal: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A home that was copied or moved."""
    assert recalled(kept, me, journal) == Watched()
    assert said in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keepstep": "0.0.1"}, "of keepstep 0.0.1"),
        ({"gaps": {"step": (-1.0,) * 8}}, "says what cannot be"),
        ({"gaps": {"step": (1.0,) * (GAPS_KEPT + 1)}}, "says what cannot be"),
    ],
)
def test_what_another_version_wrote_or_cannot_be_is_not_used(
    kept: Home, changes: dict[str, object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Though it is well written."""
    edit(kept, **changes)
    assert recalled(kept) == Watched()
    assert said in caplog.text


def test_every_flipped_byte_and_every_cut_is_seen(kept: Home, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of a damaged file is used; an empty one, as a power cut leaves it, included."""
    whole = kept.usual.read_bytes()
    assert has_checksum(whole)
    for at in range(0, len(whole), 7):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            kept.usual.write_bytes(damaged)
            assert recalled(kept) == Watched()
    assert caplog.text.count("is not used") == 2 * len(range(0, len(whole), 7))


@pytest.mark.parametrize("content", [b"{}", b"\xff\xfe", b'{"gaps": {"sing": [1.0]}}', b"[1e999]"])
def test_a_sealed_file_of_another_shape_is_not_used(
    home: Home, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a version to come, say, that knows other phases."""
    home.usual.write_bytes(sealed(content))
    assert recalled(home) == Watched()
    assert "is not used" in caplog.text


def test_it_is_written_rarely_and_only_when_there_is_something_new(kept: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a minute at most, and when a worker ends."""
    now = 1000.0
    monkeypatch.setattr(kept.clock, "monotonic", lambda: now)
    usual = LatencyStats(kept)
    watched = usual.recall(ME, "journal-1")
    kept.usual.unlink()
    usual.keep(watched, at_once=True)
    assert not kept.usual.exists()  # it is what was read
    watched = replace(watched, gaps=watched.gaps.insert("step", (0.6,) * 8))
    usual.keep(watched)
    assert kept.usual.exists()
    kept.usual.unlink()
    watched = replace(watched, gaps=watched.gaps.insert("step", (0.7,) * 8))
    now += KEPT_EVERY_S - 1.0
    usual.keep(watched)
    assert not kept.usual.exists()
    now += 1.0
    usual.keep(watched)
    assert kept.usual.exists()


def test_a_disk_that_does_not_take_it_stops_nothing(kept: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a cache."""
    before = kept.usual.read_bytes()

    def full(path: Path, flags: int, mode: int = 0o644) -> int:
        raise OSError(28, "No space left on device", str(path))

    usual = LatencyStats(kept)
    watched = usual.recall(ME, "journal-1")
    monkeypatch.setattr(kept.storage, "open", full)
    usual.keep(replace(watched, gaps=Map({"step": (9.0,) * 8})), at_once=True)
    monkeypatch.undo()
    assert kept.usual.read_bytes() == before


def test_a_daemon_leaves_it_and_the_next_one_begins_with_it(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """Through the real loop; what was left unfinished beside it is swept."""
    drop("a.jsonl", " ".join(["ok"] * 12))
    run()
    known = msgspec.json.decode(home.usual.read_bytes(), type=Known)
    assert len(known.gaps["step"]) >= 8
    assert known.environment == {"device": "fake"}
    unfinished = home.run / f".{home.usual.name}.0123.tmp"
    unfinished.touch()
    with caplog.at_level(logging.INFO):
        run()
    assert not unfinished.exists()
    assert "what is usual is known from run/usual.json" in "".join(
        path.read_text(encoding="utf-8") for path in home.logs.glob("*.jsonl")
    )
