"""A model that cannot become a version is refused before the first step, and the advice works when it is followed to
the letter: with the real worker, through the commands that the messages name."""

from __future__ import annotations

import re
import shlex
from contextlib import closing, suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.commands.init import create_home
from cli.daemon.loop import Daemon
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.paths import Home
from core.state import State
from events import kinds
from events.codec import decode_record
from journal import START, follow
from tests.harness.architectures import make_model
from tests.harness.tiny_model import make_rows

pytestmark = pytest.mark.usefixtures("warm")


def keepstep(home: Home, *words: str) -> str:
    """Give a command as a person does; what it prints."""
    done = CliRunner().invoke(app, [*words, "--home", str(home.root)])
    assert done.exit_code == 0, done.output
    return done.output


def runs(home: Home) -> list[str]:
    """What `keepstep run --until-idle` prints."""
    said: list[str] = []
    with suppress(UserError):  # a hold ends the run
        Daemon(home, until_idle=True, write=said.append).run()
    return said


def state(home: Home) -> State:
    with closing(EventStore.open(home)) as store:
        return store.state


def steps(home: Home) -> int:
    return sum(isinstance(each.event, kinds.StepReached) for each in follow(home.journal, decode_record, START)[0])


def follow_setting(home: Home, reason: str) -> None:
    """Set what the message says to set."""
    found = re.search(r"Set \[(\w+)\] (\w+) = (.+?) in keepstep\.toml", reason)
    assert found, reason
    keepstep(home, "config", "set", f"{found[1]}.{found[2]}", found[3])


def follow_commands(home: Home, advice: str) -> None:
    """Give the commands that the advice names, up to `keepstep resume`."""
    for command in re.findall(r"`keepstep ([^`]+)`", advice):
        if command not in {"resume", "init"}:
            keepstep(home, *shlex.split(command))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of a tiny Mixtral, whose experts are fused in memory."""
    make_model(tmp_path / "model", "mixtral")
    return create_home(tmp_path / "home", model=str(tmp_path / "model"))


def test_refused_model_is_trained_after_the_advice_is_followed(home: Home) -> None:
    """And what is trained is said and journaled."""
    (home.inbox / "a.jsonl").write_bytes(make_rows(16))
    runs(home)
    hold = state(home).daemon.hold
    assert hold is not None
    assert "could never become a version" in hold.reason
    assert steps(home) == 0
    follow_setting(home, hold.reason)
    follow_commands(home, hold.advice)
    keepstep(home, "resume")
    said = "\n".join(runs(home))
    assert state(home).daemon.hold is None
    assert "adapters on 8 layers (q_proj × 2, k_proj × 2, v_proj × 2, o_proj × 2)" in said
    started = [
        each.event
        for each in follow(home.journal, decode_record, START)[0]
        if isinstance(each.event, kinds.TrainingStarted)
    ]
    assert started[-1].trained is not None
    assert started[-1].trained.layers == {"q_proj": 2, "k_proj": 2, "v_proj": 2, "o_proj": 2}
    keepstep(home, "consolidate")
    runs(home)
    assert state(home).head.base == "v001"


def test_settings_lock_is_opened_by_the_advice(trained: Home) -> None:
    """After some steps the method is fixed: the advice says how to leave them first, and each command works."""
    (trained.root / "model" / "adapter_config.json").write_text("{}", encoding="utf-8")
    (trained.inbox / "b.jsonl").write_bytes(make_rows(8, start=100))
    runs(trained)
    hold = state(trained).daemon.hold
    assert hold is not None
    assert "contains an adapter" in hold.reason
    locked = CliRunner().invoke(app, ["config", "set", "method.r", "4", "--home", str(trained.root)])
    assert locked.exit_code == 1
    follow_commands(trained, hold.advice)
    keepstep(trained, "config", "set", "method.r", "4")
    (trained.root / "model" / "adapter_config.json").unlink()
    keepstep(trained, "resume")
    (trained.inbox / "b.jsonl").write_bytes(make_rows(8, start=200))
    runs(trained)
    now = state(trained)
    assert now.daemon.hold is None
    assert now.head.checkpoint is not None
    assert now.head.weight_settings is not None
    assert now.head.weight_settings.method.r == 4
