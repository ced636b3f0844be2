"""`keepstep plot` in a pipe, as a script and a person without a terminal see it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cli.commands.metrics.plot import show_plot
from cli.errors import UserError
from cli.home.paths import Home
from tests.harness.metrics_home import add_steps, append, evaluation, metrics_home, step


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home without steps."""
    monkeypatch.setenv("COLUMNS", "80")
    return metrics_home(tmp_path)


def test_a_home_without_steps_says_so(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    show_plot(home, "loss", None, json=False)
    assert capsys.readouterr().out.startswith("no step was trained yet")


def test_the_loss_is_drawn_with_the_validation_loss(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    add_steps(home, 1, 300)
    append(home, [evaluation(300, 0.5)])
    show_plot(home, "loss", None, json=False)
    shown = capsys.readouterr().out
    assert "training" in shown
    assert "validation" in shown
    assert "steps 1 to 300; a point is the mean of up to 3 steps" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "\x1b" not in shown


def test_steps_without_a_loss_are_said(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    append(home, [step(1, 1.0), step(2, "NaN"), step(3, 1.0), evaluation(3, "NaN")])
    show_plot(home, "loss", None, json=False)
    shown = capsys.readouterr().out
    assert "1 step without a loss" in shown
    assert "a validation loss is NaN" in shown


def test_only_steps_without_a_loss_draw_nothing(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    append(home, [step(1, "NaN")])
    show_plot(home, "loss", None, json=False)
    assert capsys.readouterr().out.splitlines()[0] == "steps 1 to 1"


def test_a_small_number_has_a_unit(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    add_steps(home, 1, 5)
    show_plot(home, "lr", None, json=False)
    assert "learning rate, in 1e-4" in capsys.readouterr().out


def test_json_has_the_newest_steps(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    add_steps(home, 1, 10)
    show_plot(home, "tokens", 2, json=True)
    shown = json.loads(capsys.readouterr().out)
    assert [point["global_step"] for point in shown["points"]] == [9, 10]
    assert shown["points"][0]["mean"] == 8192.0


def test_a_missing_package_is_named_with_its_command(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    add_steps(home, 1, 2)
    monkeypatch.setitem(sys.modules, "uniplot", None)
    with pytest.raises(UserError) as refused:
        show_plot(home, "loss", None, json=False)
    assert "pip install 'keepstep[plot]'" in (refused.value.advice or "")
