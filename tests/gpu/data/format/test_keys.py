"""Keys that decide what is trained: each is read, refused by name or reported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from events.settings import DataSettings
from gpu.data.format.example import BadRow, Example, Row
from gpu.data.format.formats import FORMATS, read_fields, recognise_format
from gpu.data.format.key_tables import MESSAGE_KEYS, REASONING, ROW_KEYS, Handling, Key, is_judgement
from gpu.data.format.keys import FLAGS, INVERSE_FLAGS, SYSTEM, TOKEN_MASKS
from gpu.data.format.rows import read_rows
from gpu.data.problems import PROBLEMS, Findings

PAGE = (Path(__file__).parents[4] / "docs" / "reference" / "data-formats.md").read_text(encoding="utf-8")
U = {"role": "user", "content": "u"}
A = {"role": "assistant", "content": "a"}
CHAT = {"messages": [U, A]}
PAIR = {"prompt": "p", "completion": "c"}


def of(fields: dict[str, Any]) -> tuple[Row | None, list[str]]:
    """Parse the fields of a row; return it and the names of its problems."""
    found = Findings(1)
    form = recognise_format(fields, found)
    row = read_fields(fields, form, found) if form else None
    return row, [problem.name for problem in found.problems]


def names(keys: tuple[Key, ...]) -> set[str]:
    return {name for key in keys for name in key.names}


def test_the_page_has_every_key() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (.*) \| (.*) \| (read|refused|warned)\b.*\|$", PAGE, re.MULTILINE)
    assert [
        (re.findall(r"`(\w+)`", cells), trainers, meaning, handling) for cells, trainers, meaning, handling in rows
    ] == [(list(key.names), key.trainers, key.meaning, key.handling) for key in (*ROW_KEYS, *MESSAGE_KEYS)]


def test_every_key_is_in_one_place_and_handled_in_one_way() -> None:
    for keys in (ROW_KEYS, MESSAGE_KEYS):
        assert len(names(keys)) == sum(len(key.names) for key in keys)
        for key in keys:
            assert key.handling in get_args(Handling)
            assert (key.handling == "read") == (not key.problem)
            assert key.handling == "read" or (PROBLEMS[key.problem].level == "warn") == (key.handling == "warned")


def test_keys_that_are_read_are_in_the_tables_and_the_other_way_round() -> None:
    read_in_messages = {name for key in MESSAGE_KEYS if key.handling == "read" for name in key.names}
    others = {"name", "tool_calls", "tool_call_id", "function_call"}
    assert read_in_messages == {*FLAGS, *INVERSE_FLAGS, *REASONING, *others}
    read_in_rows = {name for key in ROW_KEYS if key.handling == "read" for name in key.names}
    assert {*SYSTEM, *TOKEN_MASKS} <= read_in_rows | {"loss_mask"}
    used = set().union(*(form.reads for form in FORMATS.values()))
    assert read_in_rows <= used


@pytest.mark.parametrize("name", sorted(names(ROW_KEYS)))
def test_no_key_of_a_row_is_passed_over(name: str) -> None:
    """Each key is read, or has a problem that names it, in rows of messages and in pairs."""
    key = next(key for key in ROW_KEYS if name in key.names)
    value = next(
        value for value in ([[1]], "test", 0, False, {"a": 1}, "VALUE_TO_TEXT", [0, 1, 0]) if key.has_effect(value)
    )
    for fields, form in ((CHAT, "messages"), (PAIR, "prompt_completion")):
        found = Findings(1)
        read_fields({**fields, name: value}, FORMATS[form], found)
        assert name in FORMATS[form].reads or any(f"'{name}'" in problem.what for problem in found.problems)


@pytest.mark.parametrize("name", sorted(names(MESSAGE_KEYS)))
def test_no_key_of_a_message_is_passed_over(name: str) -> None:
    key = next(key for key in MESSAGE_KEYS if name in key.names)
    value = next(value for value in (["a"], 0.5, True) if key.has_effect(value))
    row, problems = of({"messages": [U, {**A, name: value}]})
    assert problems != []
    if key.handling == "refused":
        assert (row, key.problem in problems) == (None, True)


@pytest.mark.parametrize(
    "label", [True, False, 0, 1, 0.0, 1.0, -1, "0", "1", "1.0", "true", "False", " no ", "good", "bad"]
)
@pytest.mark.parametrize("fields", [CHAT, PAIR, {"instruction": "i", "output": "o"}])
def test_a_label_that_judges_an_answer_is_preference_data(fields: dict[str, Any], label: Any) -> None:
    assert is_judgement(label)
    assert of({**fields, "label": label}) == (None, ["preference_data"])


@pytest.mark.parametrize("label", ["math", 7, None, "", [], 0.5])
def test_another_label_is_only_a_label(label: Any) -> None:
    assert of({**CHAT, "label": label})[1] == []


def test_the_class_of_a_text_is_warned_of() -> None:
    row, problems = of({"text": "t", "label": 1})
    assert row is not None
    assert problems == ["row_key_ignored"]


@pytest.mark.parametrize(
    "extra",
    [
        {"rejected_response": "no"},
        {"rejected_messages": [U, A]},
        {"rejected": "r"},
        {"chosen": "c"},
        {"rejected_message": A},
        {"preferred_output": []},
        {"kto_tag": False},
    ],
)
@pytest.mark.parametrize("fields", [CHAT, PAIR, {}])
def test_judged_answers_are_refused_whatever_the_format(fields: dict[str, Any], extra: dict[str, Any]) -> None:
    assert of({**fields, **extra}) == (None, ["preference_data"])


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ({"weight": 0.5}, "row_weight"),
        ({"weight": 0}, "row_weight"),
        ({"loss": False}, "row_weight"),
        ({"trainable": 0}, "row_weight"),
        ({"mask": "assistant"}, "row_weight"),
        ({"split": "TEST"}, "row_not_for_training"),
        ({"train_on_input": True}, "prompt_trained"),
        ({"train_on_inputs": 1}, "prompt_trained"),
        ({"enable_thinking": False}, "row_key_refused"),
        ({"suffix": "s"}, "row_key_refused"),
        ({"position_ids": [0, 1, 0]}, "row_key_refused"),
        ({"images": ["a.png"]}, "unsupported_content"),
        ({"video": "a.mp4"}, "unsupported_content"),
        ({"reasoning": "r"}, "row_key_ignored"),
        ({"documents": [{"text": "d"}]}, "row_key_ignored"),
        ({"response_format": {"type": "json_object"}}, "row_key_ignored"),
        ({"input_ids": [1, 2]}, "row_key_ignored"),
    ],
)
def test_what_is_not_done_is_reported_by_name(extra: dict[str, Any], problem: str) -> None:
    assert of({**CHAT, **extra})[1] == [problem]


@pytest.mark.parametrize(
    "extra",
    [
        {"weight": 1},
        {"weight": 1.0},
        {"loss": 2.31},
        {"train": "train"},
        {"split": "train"},
        {"train_on_input": False},
        {"mask": "User"},
        {"images": []},
        {"rejected": None},
        {"tool_choice": "auto"},
        {"id": 7, "source": "s", "score": 0.5},
    ],
)
def test_values_that_change_nothing_are_fine(extra: dict[str, Any]) -> None:
    assert of({**CHAT, **extra})[1] == []


@pytest.mark.parametrize("name", ["loss_false", "loss_mask", "trainable"])
@pytest.mark.parametrize("fields", [CHAT])
def test_an_answer_that_its_author_marks_as_wrong_is_context(fields: dict[str, Any], name: str) -> None:
    flag: dict[str, Any] = {  # type: ignore[assignment]
        "loss_false": {"loss": False},
        "loss_mask": {"loss_mask": 0},
        "trainable": {"trainable": 0},
    }[name]
    row, problems = of({"messages": [U, {**A, **flag}, U, A]})
    assert problems == []
    assert isinstance(row, Example)
    assert row.train == (False, False, False, True)


@pytest.mark.parametrize("flag", INVERSE_FLAGS)
def test_masked_messages_are_not_trained(flag: str) -> None:
    row, problems = of({"messages": [{**U, flag: False}, {**A, flag: True}, U, {**A, flag: False}]})
    assert problems == []
    assert isinstance(row, Example)
    assert row.train == (False, False, False, True)


@pytest.mark.parametrize("name", SYSTEM)
@pytest.mark.parametrize(
    "fields", [CHAT, PAIR, {"instruction": "i", "output": "o"}, {"prompt": [U], "completion": [A]}]
)
def test_a_system_prompt_of_any_name_is_the_first_message(fields: dict[str, Any], name: str) -> None:
    row, problems = of({**fields, name: "be brief"})
    assert problems == []
    assert isinstance(row, Example)
    assert row.messages[0] == {"role": "system", "content": "be brief"}
    assert of({**fields, name: 7})[0] is None
    assert of({**fields, "system": "one", "system_prompt": "two"})[1] == ["bad_field"]


def test_arguments_of_the_template_are_read() -> None:
    row, problems = of({**CHAT, "chat_template_kwargs": {"enable_thinking": False, "absent": None}})
    assert problems == []
    assert isinstance(row, Example)
    assert row.template_kwargs == {"enable_thinking": False}
    for wrong in ("x", {"add_generation_prompt": True}, {"eos_token": "x"}):
        assert of({**CHAT, "chat_template_kwargs": wrong}) == (None, ["bad_field"])


@pytest.mark.parametrize("name", REASONING)
def test_reasoning_of_any_name_is_carried_to_the_template(name: str) -> None:
    row, problems = of({"messages": [U, {**A, name: "why"}]})
    assert problems == []
    assert isinstance(row, Example)
    assert row.messages[1] == {**A, "reasoning_content": "why"}


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "thinking", "thinking": "why"}, {"type": "text", "text": "a"}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "why"}]}, {"type": "text", "value": "a"}],
        [{"type": "reasoning", "text": "why"}, {"type": "output_text", "text": "a"}],
    ],
)
def test_reasoning_in_parts_is_reasoning(parts: list[Any]) -> None:
    row, problems = of({"messages": [U, {"role": "assistant", "content": parts}]})
    assert problems == []
    assert isinstance(row, Example)
    assert row.messages[1] == {**A, "reasoning_content": "why"}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "a", "train": False},
        {"type": "text", "text": "a", "image_url": "b.png"},
        {"type": "text", "text": "a", "value": "b"},
        {"type": "image", "image": "a.png"},
    ],
)
def test_a_part_of_a_content_means_one_text_and_nothing_else(part: dict[str, Any]) -> None:
    assert of({"messages": [U, {"role": "assistant", "content": [part]}]})[0] is None


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"instruction": "a", "input": "b", "context": "c", "output": "d"}, "bad_field"),
        ({"instruction": "a", "output": "d", "response": "e"}, "bad_field"),
        ({**CHAT, "tools": [{"name": "f"}], "functions": [{"name": "g"}]}, "bad_field"),
        ({**CHAT, "system": "a", "messages": [{"role": "system", "content": "b"}, U, A]}, "bad_field"),
        ({**CHAT, **PAIR}, "row_key_ignored"),
        ({"instruction": "a", "output": "b", "text": "a b"}, "row_key_ignored"),
        ({"prompt": [U, {**A, "train": True}, U], "completion": [A]}, "train_flag_ignored"),
        ({"messages": [{**U, "thinking": "t"}, A]}, "message_unrecognized_key"),
        ({"messages": [U, {**A, "label": "quality:4"}]}, "message_unrecognized_key"),
    ],
)
def test_what_a_row_says_twice_or_in_vain_is_reported(fields: dict[str, Any], problem: str) -> None:
    assert problem in of(fields)[1]


def test_the_same_system_prompt_twice_is_one() -> None:
    row, problems = of({"system": "s", "messages": [{"role": "system", "content": "s"}, U, A]})
    assert problems == []
    assert isinstance(row, Example)
    assert [message["role"] for message in row.messages] == ["system", "user", "assistant"]


def test_a_file_of_judged_answers_is_refused_row_by_row(tmp_path: Path) -> None:
    file = tmp_path / "kto"
    rows = [{**PAIR, "label": 0}, {**PAIR, "label": 1}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    judged = list(read_rows(file, DataSettings()))
    assert [row.problems[0].name for row in judged if isinstance(row, BadRow)] == ["preference_data"] * 2
    assert "DPO or KTO" in judged[0].problems[0].message
