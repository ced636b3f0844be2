"""The base is locked by its bytes; the rest by its values, until a version holds the training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cli.config.edit import check, set_keys, value_of
from cli.config.locks import locked_keys
from cli.config.schema import load_config
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from core import commands
from core.commands import AnyCommand
from events import kinds
from events.kinds import AnyEvent
from tests.cli.config.checks.test_usable import make_files
from tests.cli.daemon.test_loop import reached, when

Run = Callable[..., list[str]]
Drop = Callable[..., Path]


@pytest.fixture
def home_of_files(home: Home, drop: Drop, run: Run) -> Home:
    """A home that was trained on the model in `nowhere`."""
    make_files(home.root / "nowhere")
    drop("a.jsonl", "ok")
    run()
    return home


def execute(home: Home, command: AnyCommand) -> None:
    with closing(EventStore.open(home)) as store:
        store.execute(command)


def path_of(home: Home) -> object:
    return value_of(load_config(home.config), "model.path")


def test_a_base_that_was_copied_is_the_same_base(home_of_files: Home, drop: Drop, run: Run) -> None:
    """And trains on; one with another byte is not the base."""
    home = home_of_files
    shutil.copytree(home.root / "nowhere", home.root / "copy")
    make_files(home.root / "other", value=1.0)
    with pytest.raises(UserError, match=r"model\.path is locked .* other is not the base of this home") as refused:
        set_keys(home, {"model.path": "other"})
    assert "keepstep init" in refused.value.advice
    assert path_of(home) == "nowhere"
    set_keys(home, {"model.path": "copy"})
    assert path_of(home) == "copy"
    assert "fits the trained weights" in check(home)
    drop("b.jsonl", "ok ok")
    run()
    assert load_state(home)[0].state.outcomes.counts.trained == 2
    with pytest.raises(UserError, match="other is not the base"):
        set_keys(home, {"model.path": "other"})


def test_a_base_that_is_gone_and_recorded_nowhere_cannot_be_compared(home_of_files: Home) -> None:
    """The fake worker records no bytes, as early keepsteps did."""
    shutil.move(home_of_files.root / "nowhere", home_of_files.root / "moved")
    with pytest.raises(UserError, match="no checkpoint records its bytes"):
        set_keys(home_of_files, {"model.path": "moved"})


def test_a_path_that_was_changed_by_hand_waits_for_the_comparison(
    home_of_files: Home, drop: Drop, run: Run, events: Callable[[], list[AnyEvent]]
) -> None:
    """The daemon does not read a whole model: `config check` does, and then the work continues."""
    home = home_of_files
    shutil.copytree(home.root / "nowhere", home.root / "copy")
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace('path = "nowhere"', 'path = "copy"'), encoding="utf-8")
    drop("b.jsonl", "ok ok")
    with pytest.raises(UserError, match="has not been compared"):
        run()
    (held,) = (event for event in events() if isinstance(event, kinds.DaemonHeld))
    assert "has not been compared" in held.reason
    assert "keepstep config check" in held.advice
    assert "fits the trained weights" in check(home)
    execute(home, commands.Resume())
    run()
    state = load_state(home)[0].state
    assert state.outcomes.counts.trained == 2
    assert state.config.error is None


def test_a_begun_job_goes_to_a_compared_base_only(
    home: Home, drop: Drop, run: Run, events: Callable[[], list[AnyEvent]]
) -> None:
    """A path that was changed by hand is not: the job keeps the base that it started with, and its other settings."""
    make_files(home.root / "nowhere")
    shutil.copytree(home.root / "nowhere", home.root / "copy")
    drop("a.jsonl", "ok wait ok wait ok")
    text = home.config.read_text(encoding="utf-8")
    moved = text.replace('path = "nowhere"', 'path = "copy"').replace("epochs = 1", "epochs = 2")
    for step, config in ((1, moved), (3, moved)):
        pauser = when(reached(home, step), lambda: execute(home, commands.Pause()))
        run()
        pauser.join()
        home.config.write_text(config, encoding="utf-8")
        if step == 3:
            assert "fits the trained weights" in check(home)
        execute(home, commands.Resume())
    run()
    starts = [event.settings for event in events() if isinstance(event, kinds.AttemptStarted)]
    assert [each.model.path for each in starts] == ["nowhere", "nowhere", "copy"]
    assert {each.training.epochs for each in starts} == {1}
    assert load_state(home)[0].state.outcomes.counts.trained == 1


def test_after_a_version_an_adapter_of_another_kind_may_follow(home_of_files: Home, run: Run) -> None:
    """With another type of the frozen weights: both only shape the next adapter. Full training is another sum."""
    home = home_of_files
    state, config = load_state(home)[0].state, load_config(home.config)
    assert {"model.path", "model.dtype", "method.r", "method.kind", "data.max_length"} <= locked_keys(state, config)
    with pytest.raises(UserError, match=r"model\.dtype is locked"):
        set_keys(home, {"model.dtype": "bfloat16"})
    execute(home, commands.RequestConsolidation(description=""))
    run()
    assert locked_keys(load_state(home)[0].state, config) == {"model.path"}
    with pytest.raises(UserError, match=r"method\.kind is locked") as refused:
        set_keys(home, {"method.kind": "full"})
    assert "another home" in refused.value.advice
    set_keys(home, {"method.kind": "qlora", "model.dtype": "bfloat16"})
