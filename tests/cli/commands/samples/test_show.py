"""`keepstep samples`: answers by step, whole answers, and what it says where there are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.home.paths import Home
from tests.cli.arguments.test_completion import completed
from tests.cli.test_commands import keepstep

ROW = '{"prompt": "p", "completion": "c"}\n'


@pytest.fixture
def sampled(home: Home, drop: Callable[..., Path], run: Callable[..., list[str]]) -> Home:
    """Five steps with samples after every second one and at the end."""
    (home.root / "p.jsonl").write_text(ROW, encoding="utf-8")
    text = home.config.read_text(encoding="utf-8").replace("prompts = 3 ", 'prompts = "p.jsonl" ')
    home.config.write_text(text.replace("every_steps = 200 # let", "every_steps = 2 # let"), encoding="utf-8")
    drop("a.jsonl", "ok ok ok ok ok")
    said = "\n".join(run())
    assert "samples after step 2: 1 of 1 as expected, 0 of 1 with <think>" in said
    assert "✓ What are the weights? → " in said
    return home


def report(home: Home, *options: str) -> Any:
    return json.loads(keepstep("samples", "--json", *options, home=home).stdout)


def test_answers_stand_by_prompt_and_step(sampled: Home) -> None:
    """With the shares of the first and the last round, and the cost."""
    shown = keepstep("samples", home=sampled)
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("prompt    What are the weights?  (012345)")
    assert [line.split()[1] for line in lines if line.startswith("step ")] == ["2", "4", "5"]
    assert "as expected   1 of 1 after step 2 → 1 of 1 after step 5" in shown.stdout
    assert "of the training time" in shown.stdout


def test_json_has_all_of_it(sampled: Home) -> None:
    found = report(sampled)
    assert [each["global_step"] for each in found["rounds"]] == [2, 4, 5]
    (prompt,) = found["prompts"]
    assert [each["match"] for each in prompt["answers"]] == [True] * 3
    assert report(sampled, "--step", "4")["prompts"][0]["answers"][0]["global_step"] == 4
    assert report(sampled, "--prompt", "0123")["prompts"] == found["prompts"]


def test_one_step_shows_whole_answers(sampled: Home) -> None:
    shown = keepstep("samples", "--step", "4", home=sampled).stdout
    assert "answer    ✓ " in shown
    assert "8 tokens" in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--step", "3"], "there are no samples after step 3"),
        (["--prompt", "zz"], "no prompt has an id that begins with zz"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(options: list[str], says: str, sampled: Home) -> None:
    shown = keepstep("samples", *options, home=sampled)
    assert shown.returncode == 1
    assert says in shown.stderr
    assert "steps 2, 4, 5" in shown.stderr or "`keepstep samples` shows the ids" in shown.stderr


def test_a_home_without_samples_says_how_to_get_some(home: Home) -> None:
    shown = keepstep("samples", home=home)
    assert shown.returncode == 0
    assert "no samples yet" in shown.stdout
    assert "samples.prompts=FILE" in shown.stdout
    assert report(home)["rounds"] == []


def test_status_has_the_last_ones(sampled: Home) -> None:
    assert "1 of 1 as expected, 0 with <think>, after step 5 of a.jsonl" in keepstep("status", home=sampled).stdout
    found = json.loads(keepstep("status", "--json", home=sampled).stdout)["samples"]
    assert (found["matched"], found["answers"], found["step"], found["asked"]) == (1, 1, 5, False)


def test_the_shell_completes_steps_and_prompts(sampled: Home) -> None:
    assert completed("keepstep samples show --step ", sampled.root) == ["2", "4", "5"]
    assert completed("keepstep samples show --prompt 01", sampled.root) == ["012345"]
