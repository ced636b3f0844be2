"""Rows of earlier files are mixed into a new one."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from events.messages import Prepare, Prepared
from events.settings import DataSettings, Sources
from gpu.data.plan import replay
from gpu.data.plan.lines import SOURCE_SHIFT, is_own, line_of
from gpu.data.plan.store import Tokens
from gpu.errors import DataChanged, YieldRequested
from tests.gpu.helpers import LORA, FakeChannel, Home, settings
from tests.harness.tiny_model import make_rows

NEW = make_rows(40)
EARLIER = (make_rows(30, 100), make_rows(20, 200))


def mixed(home: Home, share: float, *earlier: bytes, **data: Any) -> tuple[Any, list[int]]:
    """Prepare; return the plan and the line of each piece."""
    jobs = tuple(home.add(each) for each in earlier)
    how = replace(settings(LORA, data=DataSettings(replay=share, **data)), sources=Sources(replay=jobs))
    home.new_session().prepare(Prepare(attempt=1, job=home.add(NEW), settings=how))
    (kept,) = (home.path / "cache" / "tokens").iterdir()
    tokens = Tokens(kept)
    return home.channel.of(Prepared)[-1].plan, tokens.lines.tolist()


def test_a_share_of_earlier_rows_comes_after_the_files_own(home: Home) -> None:
    plan, lines = mixed(home, 0.25, *EARLIER)
    assert (plan.rows, plan.replayed_rows) == (50, 10)
    assert lines == sorted(lines)
    assert lines[:40] == list(range(1, 41))
    assert [is_own(line) for line in lines] == [True] * 40 + [False] * 10
    sources = {line >> SOURCE_SHIFT for line in lines[40:]}
    assert sources == {1, 2}
    assert all(1 <= line - line_of(line >> SOURCE_SHIFT, 0) <= 30 for line in lines[40:])


def test_which_they_are_follows_from_the_files_alone(home: Home) -> None:
    _, lines = mixed(home, 0.25, *EARLIER)
    assert mixed(home, 0.25, *EARLIER)[1] == lines
    fewer = mixed(home, 0.1, *EARLIER)[1][40:]
    assert len(fewer) == 4
    assert set(fewer) < set(lines)


def test_an_automatic_share_is_the_one_that_the_job_was_journaled_with(home: Home) -> None:
    """The same rows as with that share in keepstep.toml."""
    jobs = tuple(home.add(each) for each in EARLIER)
    how = replace(settings(LORA, data=DataSettings(replay="auto")), sources=Sources(replay=jobs, replay_share=0.25))
    home.new_session().prepare(Prepare(attempt=1, job=home.add(NEW), settings=how))
    (kept,) = (home.path / "cache" / "tokens").iterdir()
    lines = Tokens(kept).lines.tolist()
    assert len(lines) == 50
    assert lines == mixed(home, 0.25, *EARLIER)[1]


def test_nothing_is_mixed_in_where_there_is_nothing_or_it_is_not_wanted(home: Home) -> None:
    assert mixed(home, 0.25)[0].replayed_rows == 0
    assert mixed(home, 0.0, *EARLIER)[0].replayed_rows == 0


def test_no_more_is_mixed_in_than_there_is(home: Home) -> None:
    assert mixed(home, 0.9, make_rows(3, 300))[0].replayed_rows == 3


def test_what_is_held_out_is_not_mixed_in_either(home: Home) -> None:
    (home.path / "validation").mkdir()
    sha256 = hashlib.sha256(EARLIER[0]).hexdigest()
    (home.path / "validation" / f"{sha256}.jsonl").write_bytes(EARLIER[0])
    how = replace(
        settings(LORA, data=DataSettings(replay=0.9)),
        sources=Sources(validation_sha256=sha256, replay=(home.add(EARLIER[0]),)),
    )
    home.new_session().prepare(Prepare(attempt=1, job=home.add(NEW), settings=how))
    assert home.channel.of(Prepared)[-1].plan.replayed_rows == 0


def test_an_earlier_file_that_is_gone_is_named(home: Home) -> None:
    job = home.add(EARLIER[0])
    (home.path / "data" / f"{job}.jsonl").unlink()
    how = replace(settings(LORA, data=DataSettings(replay=0.5)), sources=Sources(replay=(job,)))
    with pytest.raises(DataChanged, match="whose rows are mixed in"):
        home.new_session().prepare(Prepare(attempt=1, job=home.add(NEW), settings=how))


def test_a_pause_and_a_heartbeat_come_through_while_earlier_files_are_read(home: Home) -> None:
    """Up to sixty-four large files may be read: the worker sends heartbeats and notices requests meanwhile."""
    read = 0

    class Asking(FakeChannel):
        def yield_requested(self) -> bool:
            return read > 0

    def earlier_rows(*arguments: Any) -> Any:
        nonlocal read
        for row in rows_of(*arguments):
            read += 1
            yield row

    jobs = tuple(home.add(each) for each in EARLIER)
    how = replace(settings(LORA, data=DataSettings(replay=0.25)), sources=Sources(replay=jobs))
    session = home.new_session()
    session._channel = Asking()
    with pytest.MonkeyPatch.context() as patched:
        rows_of = replay.rows.read_rows  # type: ignore[attr-defined]
        patched.setattr(replay, "rows", SimpleNamespace(read_rows=earlier_rows))
        with pytest.raises(YieldRequested):
            session.prepare(Prepare(attempt=1, job=home.add(NEW), settings=how))
    assert read < 30
    assert not list((home.path / "cache" / "tokens").iterdir())
