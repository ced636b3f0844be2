"""The feed: metrics and newest records of a journal, as it grows."""

from __future__ import annotations

import pytest

from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.monitor import feed as feed_module
from cli.monitor.feed import Feed
from core import commands


def grow(home: Home) -> None:
    store = EventStore.open(home)
    store.execute(commands.Pause() if store.state.daemon.status != "off_paused" else commands.Resume())
    store.close()


def test_new_records_follow_the_last_ones_without_a_gap(home: Home) -> None:
    feed = Feed(home)
    last = feed.catch_up()
    assert feed.after(last) == ([], False)
    grow(home)
    assert feed.catch_up() > last
    records, lost = feed.after(last)
    assert [record.seq for record in records] == list(range(last + 1, feed.catch_up() + 1))
    assert not lost


def test_a_reader_that_missed_too_much_has_lost_records(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "RECORDS_KEPT", 10)
    feed = Feed(home)
    last = feed.catch_up()
    assert feed.after(last - 11).lost
    assert not feed.after(last - 10).lost


def test_a_reader_of_another_journal_has_lost_records(home: Home) -> None:
    feed = Feed(home)
    assert feed.after(feed.catch_up() + 1).lost


def test_the_tail_can_be_of_one_kind(home: Home) -> None:
    feed = Feed(home)
    feed.catch_up()
    assert [record.kind for record in feed.tail(2, "step_reached")] == ["step_reached", "step_reached"]
    assert feed.tail(0, None) == []
    assert feed.tail(10**6, None)[-1].seq == feed.catch_up()


def test_the_chart_ends_at_the_step_that_was_reached_last(home: Home) -> None:
    feed = Feed(home)
    feed.catch_up()
    chart = feed.chart(None, None, 100)
    assert chart.seq == feed.catch_up()
    assert chart.last == 47
