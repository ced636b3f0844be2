"""`keepstep samples now`: at the next step of what trains, or a sentence why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cli.commands.samples.request import request_samples
from cli.errors import UserError
from cli.home.paths import Home
from cli.home.snapshot_reader import load_state
from core.errors import Refused
from events.kinds import AnyEvent, SamplesGenerated, SamplesRequested
from tests.cli.daemon.test_loop import when
from tests.cli.test_commands import keepstep

ROW = '{"prompt": "p", "completion": "c"}\n'


def with_prompts(home: Home, value: str) -> None:
    text = home.config.read_text(encoding="utf-8")
    assert text.count("prompts = 3 ") == 1
    home.config.write_text(text.replace("prompts = 3 ", f"prompts = {value} "), encoding="utf-8")


def test_a_request_is_met_by_the_next_step_also_after_a_restart(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], events: Callable[[], list[AnyEvent]]
) -> None:
    """The daemon stops before the worker could meet it; the next one does."""
    (home.root / "p.jsonl").write_text(ROW, encoding="utf-8")
    with_prompts(home, '"p.jsonl"')
    config = home.config.read_text(encoding="utf-8").replace("silence_s = 1.0 ", "silence_s = 600.0 ", 1)
    home.config.write_text(config, encoding="utf-8")  # commands take seconds
    drop("a.jsonl", "ok ok wait-once ok")
    said: list[str] = []

    def ask() -> None:
        said.append(keepstep("samples", "now", home=home).stdout)
        said.append(keepstep("samples", "now", home=home).stderr)
        keepstep("stop", home=home)

    thread = when(lambda: load_state(home)[0].state.attempts.reached.step >= 2, ask)
    run(until_idle=False)
    thread.join()
    assert said[0] == "a.jsonl: samples follow the next step; `keepstep samples` shows them\n"
    assert "already requested" in said[1]
    run()
    asked = [event.step for event in events() if isinstance(event, SamplesGenerated) and event.asked]
    assert len(asked) == sum(isinstance(event, SamplesRequested) for event in events()) == 1


def test_where_nothing_trains_it_is_refused(home: Home) -> None:
    """With the command that answers now."""
    (home.root / "p.jsonl").write_text(ROW, encoding="utf-8")
    with_prompts(home, '"p.jsonl"')
    with pytest.raises(Refused, match="nothing trains now"):
        request_samples(home)


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ("3", "no row is held out"),
        ("0", "prompts is 0, so there is nothing to ask"),
        ('"nowhere.jsonl"', "there is no file of prompts at"),
    ],
)
def test_where_there_is_no_prompt_it_is_refused(prompts: str, says: str, home: Home) -> None:
    """Before anything is journaled."""
    with_prompts(home, prompts)
    with pytest.raises(UserError, match=says) as caught:
        request_samples(home)
    assert caught.value.advice
