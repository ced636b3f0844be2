"""The context of a row is read: its system prompt and the arguments of the chat template."""

from __future__ import annotations

from typing import Any

import pytest

from gpu.data.format.context import system_prompt, template_kwargs
from gpu.data.problems import Findings


@pytest.mark.parametrize(
    ("fields", "prompt", "problems"),
    [
        ({}, "", []),
        ({"system": None}, "", []),
        ({"system": "s"}, "s", []),
        ({"system_prompt": "s", "system": ""}, "s", []),
        ({"system": "s", "system_message": "s"}, "s", []),
        ({"system": ["s"]}, "", ["bad_field"]),
    ],
)
def test_a_row_has_one_system_prompt(fields: dict[str, Any], prompt: str, problems: list[str]) -> None:
    found = Findings(1)
    assert system_prompt(fields, found) == prompt
    assert [problem.name for problem in found.problems] == problems


def test_two_system_prompts_are_reported() -> None:
    found = Findings(1)
    system_prompt({"system": "a", "system_prompt": "b"}, found)
    assert "different system prompts" in found.problems[0].what


@pytest.mark.parametrize(
    ("given", "kwargs"), [(None, None), ({}, None), ({"a": None}, None), ({"a": 1, "b": None}, {"a": 1})]
)
def test_arguments_of_the_template_are_those_that_have_a_value(given: Any, kwargs: Any) -> None:
    found = Findings(1)
    assert template_kwargs({"chat_template_kwargs": given}, found) == kwargs
    assert not found.problems


@pytest.mark.parametrize("given", ["x", 7, [1], {"tools": [1]}, {"tokenize": False}])
def test_arguments_that_keepstep_sets_are_refused(given: Any) -> None:
    found = Findings(1)
    assert template_kwargs({"chat_template_kwargs": given}, found) is None
    assert found.broken
