"""The answers of several models to the same prompts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from cli.commands.init import create_home
from cli.errors import UserError
from cli.generate.compare import Answers, compare_models, comparison_as_json, print_comparison, refuse_same_models
from cli.generate.models import find_model
from cli.generate.process import GenerationProcess
from cli.generate.prompts import Prompt
from cli.home.paths import Home
from events.generation import ChatMessage, Sampling

PROMPTS = [
    Prompt((ChatMessage("user", "What is 3 and 8?"),), "It is not much."),
    Prompt((ChatMessage("user", "Why?"),)),
]


@pytest.fixture(scope="module")
def found(consolidated_once: Path, warm_module: None) -> list[Answers]:
    sampling = Sampling(temperature=0.7, max_tokens=16)
    return compare_models(Home(consolidated_once), ["base", "head"], PROMPTS, "", sampling, "cpu")


def test_each_model_answers_each_prompt_with_the_same_seed(found: list[Answers]) -> None:
    assert [each.loaded.model.name for each in found] == ["base", "head"]
    assert [len(each.answers) for each in found] == [2, 2]
    assert len({answer.sampling.seed for each in found for answer in each.answers}) == 1


def test_models_on_one_base_are_loaded_once_and_shown_in_the_order_of_the_names(
    consolidated_once: Path, warm_module: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head comes first, and v001, which it was trained on, answers with the adapter switched off."""
    order: list[str] = []
    load = GenerationProcess.load

    def watch(process: GenerationProcess, name: str, *rest: Any) -> Any:
        order.append(name)
        return load(process, name, *rest)

    monkeypatch.setattr(GenerationProcess, "load", watch)
    names, sampling = ["base", "v001", "head"], Sampling(temperature=0.7, max_tokens=8, seed=1)
    together = compare_models(Home(consolidated_once), names, PROMPTS[1:], "", sampling, "cpu")
    assert order == ["base", "head", "v001"]
    assert [each.loaded.model.name for each in together] == names
    for name, other in (("v001", "base"), ("head", "base")):
        apart = compare_models(Home(consolidated_once), [name, other], PROMPTS[1:], "", sampling, "cpu")
        assert apart[0].answers[0].text == together[names.index(name)].answers[0].text


def test_answers_are_listed_where_there_is_no_terminal(
    found: list[Answers], capsys: pytest.CaptureFixture[str]
) -> None:
    print_comparison(PROMPTS, found)
    titles = [line for line in capsys.readouterr().out.splitlines() if line and not line.startswith(" ")]
    assert titles == ["prompt:", "expected:", "base:", "head:", "prompt:", "base:", "head:"]


@pytest.mark.parametrize(("width", "columns"), [(200, True), (80, False)])
def test_answers_are_side_by_side_where_the_terminal_is_wide(
    found: list[Answers], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, columns: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    print_comparison(PROMPTS, found)
    first = capsys.readouterr().out.strip().splitlines()[0]
    assert all(title in first for title in ("base", "head", "expected")) == columns


def test_json_has_the_models_and_the_values_of_sampling(found: list[Answers]) -> None:
    whole = comparison_as_json(PROMPTS, found)
    assert [model["checkpoint"] for model in whole["models"]] == [None, "step-00000004-attempt-0003"]
    answer = whole["prompts"][0]["answers"]["head"]
    assert answer["answer"] == found[1].answers[0].text
    assert (answer["sampling"]["temperature"], answer["sampling"]["max_tokens"]) == (0.7, 16)
    assert whole["prompts"][0]["expected"] == "It is not much."


def test_two_names_of_one_model_are_refused(tmp_path: Path) -> None:
    """Nothing is trained yet, so the head is the base."""
    home = create_home(tmp_path / "home", model="some/model")
    with pytest.raises(UserError, match="base and head are the same model now") as caught:
        refuse_same_models([find_model(home, name) for name in ("base", "head")])
    assert "keepstep run" in caught.value.advice
