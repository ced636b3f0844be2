"""An edit of keepstep.toml while a daemon runs is accepted or refused as a whole, in the next turn."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cli.daemon.config_watch import ConfigWatch
from cli.home.event_store import EventStore
from cli.home.paths import Home
from events.kinds import AnyEvent, ConfigChanged, ConfigFixed, ConfigRefused

Run = Callable[..., list[str]]
Drop = Callable[..., Path]


@pytest.fixture
def trained_a_bit(home: Home, drop: Drop, run: Run) -> Iterator[EventStore]:
    """Something is committed, and no version holds it."""
    drop("a.jsonl", "ok")
    run()
    with closing(EventStore.open(home)) as store:
        yield store


def edit(home: Home, before: str, now: str) -> None:
    text = home.config.read_text(encoding="utf-8")
    assert before in text
    home.config.write_text(text.replace(before, now, 1), encoding="utf-8")


def looked(watch: ConfigWatch, store: EventStore) -> list[AnyEvent]:
    """Two turns: an edit is taken when it has lasted for one."""
    return [*watch.check_edit(store), *watch.check_edit(store)]


def test_while_nobody_edits_nothing_is_read(home: Home, trained_a_bit: EventStore) -> None:
    """A turn costs one call of the system."""
    watch = ConfigWatch(home, lambda _: None)
    assert looked(watch, trained_a_bit) == []
    home.config.rename(home.root / "aside")  # the same file, put back: the stamp is the same
    (home.root / "aside").rename(home.config)
    config = watch.config
    assert looked(watch, trained_a_bit) == []
    assert watch.config is config


def test_changed_keys_are_reported_and_daemon_settings_apply_at_once(home: Home, trained_a_bit: EventStore) -> None:
    """Job settings are journaled with the first job that uses them."""
    said: list[str] = []
    watch = ConfigWatch(home, said.append)
    looked(watch, trained_a_bit)
    edit(home, "soft_gb = 0.0", "soft_gb = 2.5")
    edit(home, "epochs = 1", "epochs = 2")
    (changed,) = looked(watch, trained_a_bit)
    assert isinstance(changed, ConfigChanged)
    assert [each.key for each in changed.changes] == ["disk.soft_gb"]
    assert watch.config.disk.soft_gb == 2.5
    assert said == ["keepstep.toml was changed, for the next job: training.epochs 1 → 2"]


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        ("r = 16", "r = 8", "method.r is 8, and the weights were trained with 16"),
        ("max_length = 1024", "max_length = 64", "data.max_length is 64, and the weights were trained with 1024"),
        ("epochs = 1", "epochs = 0", "training.epochs = 0 is not allowed"),
        ("[training]", "[training", "is not valid TOML"),
    ],
)
def test_an_unusable_config_is_refused_once_and_the_old_one_stays_in_force(
    home: Home, trained_a_bit: EventStore, before: str, now: str, says: str
) -> None:
    """All of the file, other keys too; put back, that is said as well."""
    watch = ConfigWatch(home, lambda _: None)
    looked(watch, trained_a_bit)
    edit(home, before, now)
    edit(home, "soft_gb = 0.0", "soft_gb = 2.5")
    (refused,) = looked(watch, trained_a_bit)
    assert isinstance(refused, ConfigRefused)
    assert says in refused.reason
    assert refused.advice
    assert watch.config.disk.soft_gb == 0.0
    assert looked(watch, trained_a_bit) == []
    edit(home, now, before)
    fixed, changed = looked(watch, trained_a_bit)
    assert isinstance(fixed, ConfigFixed)
    assert isinstance(changed, ConfigChanged)


def test_a_file_that_is_gone_is_refused_too(home: Home, trained_a_bit: EventStore) -> None:
    """An editor replaces it within a turn."""
    watch = ConfigWatch(home, lambda _: None)
    looked(watch, trained_a_bit)
    text = home.config.read_bytes()
    home.config.unlink()
    assert watch.check_edit(trained_a_bit) == ()
    (refused,) = watch.check_edit(trained_a_bit)
    assert isinstance(refused, ConfigRefused)
    home.config.write_bytes(text)
    assert [type(event) for event in looked(watch, trained_a_bit)] == [ConfigFixed]


def test_a_disk_error_at_the_first_look_does_not_end_the_daemon(
    home: Home, trained_a_bit: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first system call fails, the next ones work: the next turn looks again."""
    examine, failures = home.storage.stat, [OSError(errno.EIO, "Input/output error")]

    def failing_once(path: Path) -> os.stat_result:
        if failures:
            raise failures.pop()
        return examine(path)

    monkeypatch.setattr(home.storage, "stat", failing_once)
    watch = ConfigWatch(home, lambda _: None)
    assert looked(watch, trained_a_bit) == []
    edit(home, "soft_gb = 0.0", "soft_gb = 2.5")
    assert len(looked(watch, trained_a_bit)) == 1
