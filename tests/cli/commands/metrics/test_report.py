"""`keepstep report` and `keepstep report rebuild`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from cli.commands.metrics.report import rebuild, show_report
from cli.errors import UserError
from cli.home.paths import Home
from cli.report.progress import Progress, Sent, read_progress, write_progress
from tests.harness.metrics_home import add_steps, metrics_home

ROOT = Path(__file__).parents[4]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with three steps."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    home = metrics_home(tmp_path)
    add_steps(home, 1, 3)
    return home


def use(home: Home, tools: str) -> None:
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(text.replace("to = []", f"to = [{tools}]"), encoding="utf-8")


def test_without_a_tool_it_says_how_to_name_one(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    show_report(home, json=False)
    assert "keepstep config set 'report.to=" in capsys.readouterr().out
    with pytest.raises(UserError):
        rebuild(home, None)


def test_it_shows_what_a_tool_has_and_its_error(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    use(home, '"wandb"')
    show_report(home, json=False)
    assert "nothing was sent yet" in capsys.readouterr().out
    write_progress(home, "wandb", Progress(sent={"train": Sent(3, 2)}, done_at=1.0, place="here", error="no network"))
    show_report(home, json=False)
    shown = capsys.readouterr().out
    assert "up to 2 of 3" in shown
    assert "1 step to send" in shown
    assert "no network; it is tried again" in shown
    assert "here" in shown
    show_report(home, json=True)
    (found,) = json.loads(capsys.readouterr().out)
    assert found["tool"] == "wandb"
    assert found["sent"] == {"train": {"seq": 3, "step": 2}}


def test_a_rebuild_without_a_daemon_sends_all_points(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    rebuild(home, "tensorboard")
    assert "rebuilt; it has the steps up to 3" in capsys.readouterr().out
    assert read_progress(home, "tensorboard").sent["train"].step == 3


def test_a_rebuild_that_fails_says_why(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    home.metrics.write_bytes(b"a file in the place of the directory")
    with pytest.raises(typer.Exit):
        rebuild(home, "tensorboard")
    assert "tensorboard: " in capsys.readouterr().err
