"""`keepstep ask`, `chat` and `compare`: what goes where, and what is refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.app import app
from cli.commands.init import create_home
from cli.errors import UserError
from cli.home.paths import Home

pytestmark = pytest.mark.usefixtures("warm_module")


def keepstep(*arguments: str, home: Path, said: str = "") -> Result:
    """Run a command; a UserError is raised."""
    ended = CliRunner().invoke(app, [*arguments, "--home", str(home)], input=said)
    if isinstance(ended.exception, UserError):
        raise ended.exception
    return ended


def test_only_the_answer_goes_to_standard_output(trained_once: Path) -> None:
    asked = ["ask", "What is 3 and 8?", "--greedy", "--max-tokens", "12"]
    ended = keepstep(*asked, home=trained_once)
    whole = json.loads(keepstep(*asked, "--json", home=trained_once).stdout)
    assert ended.stdout == f"{whole['answer']}\n"
    assert "[head: step-00000002-attempt-0001 on model; CPU, float32]" in ended.stderr
    assert whole["model"]["checkpoint"] == "step-00000002-attempt-0001"
    assert whole["sampling"]["greedy"]
    assert whole["sampling"]["max_tokens"] == 12
    assert whole["prompt"] == "What is 3 and 8?"


def test_same_seed_gives_the_same_answer_in_another_process(trained_once: Path) -> None:
    asked = ["ask", "Hi", "--temperature", "1.3", "--max-tokens", "16", "--json", "--seed"]
    one, again, other = (json.loads(keepstep(*asked, seed, home=trained_once).stdout) for seed in ("1", "1", "2"))
    assert one["answer"] == again["answer"]
    assert (one["sampling"]["seed"], one["sampling"]["temperature"]) == (1, 1.3)
    assert other["answer"] != one["answer"]


def test_prompt_is_read_from_standard_input(trained_once: Path) -> None:
    asked = ["--greedy", "--max-tokens", "4", "--json"]
    whole = json.loads(keepstep("ask", "-", *asked, home=trained_once, said="two\nlines\n").stdout)
    assert whole["prompt"] == "two\nlines"


def test_chat_answers_each_line(trained_once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = keepstep("chat", "--greedy", "--max-tokens", "4", home=trained_once, said="one\ntwo\n")
    assert ended.exit_code == 0
    assert "[head: step-00000002-attempt-0001" in ended.stderr


def test_model_of_a_dialogue_is_an_argument_or_an_option(trained_once: Path) -> None:
    for named in (["base"], ["-m", "base"], ["base", "-m", "base"]):
        ended = keepstep("chat", *named, "--max-tokens", "2", home=trained_once, said="hi\n")
        assert "[base: model; CPU, float32]" in ended.stderr
    ended = keepstep("chat", "base", "-m", "origin", home=trained_once)
    assert ended.exit_code == 2
    assert "name one model: base or origin" in ended.output
    assert "keepstep ask 'What is 1?'" in keepstep("chat", "What is 1?", home=trained_once).output


def test_models_of_a_comparison_are_its_last_words(trained_once: Path) -> None:
    asked = ["What is the head?", "base?", "--greedy", "--max-tokens", "2", "--json"]
    whole = json.loads(keepstep("compare", *asked[:2], "head", "base", *asked[2:], home=trained_once).stdout)
    assert [model["name"] for model in whole["models"]] == ["head", "base"]
    assert [prompt["messages"][-1]["content"] for prompt in whole["prompts"]] == asked[:2]
    with pytest.raises(UserError, match="there is no model 'v009'"):
        keepstep("compare", *asked[:2], "head", "v009", home=trained_once)


def test_compare_shows_the_base_and_the_head(trained_once: Path) -> None:
    ended = keepstep("compare", "Hi", "--greedy", "--max-tokens", "4", "--json", home=trained_once)
    whole = json.loads(ended.stdout)
    assert [model["name"] for model in whole["models"]] == ["base", "head"]
    assert set(whole["prompts"][0]["answers"]) == {"base", "head"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "x", "--greedy", "--top-k", "3"], "--greedy excludes"),
        (["ask", "x", "--top-p", "0"], "--top-p must be above 0"),
        (["ask", "x", "--temperature", "-1"], "temperature"),
        (["ask", "x", "--device", "tpu"], "is not one of 'auto'"),
        (["ask", "x", "--temperature", "nan"], "temperature"),
        (["ask", "x", "--temperature", "inf"], "finite"),
        (["ask", "x", "--max-tokens", "9" * 30], "max-tokens"),
        (["chat", "--max-tokens", "0"], "max-tokens"),
        (["compare", "x", "--rows", "0"], "rows"),
    ],
)
def test_wrong_options_are_usage_errors(trained_once: Path, arguments: list[str], message: str) -> None:
    ended = keepstep(*arguments, home=trained_once)
    assert ended.exit_code == 2
    assert message in ended.output


@pytest.mark.parametrize("prompt", ["", " \n", "-"])
def test_empty_prompt_is_refused(trained_once: Path, prompt: str) -> None:
    with pytest.raises(UserError, match="the prompt is empty"):
        keepstep("ask", prompt, home=trained_once, said="\n")


@pytest.mark.parametrize("command", [["ask", "-"], ["chat"]])
def test_input_that_is_no_text_is_refused(trained_once: Path, command: list[str]) -> None:
    ended = CliRunner().invoke(app, [*command, "--device", "cpu", "--home", str(trained_once)], input=b"caf\xe9\n")
    assert isinstance(ended.exception, UserError)
    assert "standard input is not UTF-8" in ended.exception.reason


def test_argument_that_is_no_text_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    home = create_home(tmp_path / "home", model="some/model")
    with pytest.raises(UserError, match="not UTF-8"):
        keepstep("ask", "caf\udce9", home=home.root)


def test_endless_input_is_refused(trained_once: Path) -> None:
    with pytest.raises(UserError, match="more than any model takes"):
        keepstep("ask", "-", home=trained_once, said="x" * 5_000_000)


def test_comparison_of_one_model_is_refused(trained_once: Path) -> None:
    with pytest.raises(UserError, match="needs two models"):
        keepstep("compare", "x", "--model", "head", home=trained_once)


def test_model_that_cannot_be_loaded_is_a_sentence(tmp_path: Path) -> None:
    home: Home = create_home(tmp_path / "home", model="models/none")
    (home.root / "models" / "none").mkdir(parents=True)
    with pytest.raises(UserError, match=r"head \(models/none\) cannot be loaded"):
        keepstep("ask", "x", "--device", "cpu", home=home.root)


def test_commands_load_no_torch() -> None:
    from tests.test_architecture import loaded_by

    modules = ("commands.chat", "generate.dialogue", "generate.compare", "generate.prompts", "generate.process")
    assert loaded_by("import " + ", ".join(f"cli.{module}" for module in modules)) == set()
