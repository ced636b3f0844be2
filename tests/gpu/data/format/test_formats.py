"""Every example in docs/reference/data-formats.md is parsed, and trains what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from events.settings import DataSettings
from gpu.data.format.example import BadRow, Example, Row, Text, Tokenised
from gpu.data.format.formats import FORMATS, read_fields, recognise_format
from gpu.data.format.rows import read_rows
from gpu.data.problems import Findings

PAGE = (Path(__file__).parents[4] / "docs" / "reference" / "data-formats.md").read_text(encoding="utf-8")
U = {"role": "user", "content": "u"}
A = {"role": "assistant", "content": "a"}


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading."""
    rows = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].splitlines()
    return [[cell.strip() for cell in row[2:-2].split(" | ")] for row in rows if row.startswith("| ")][2:]


EXAMPLES = [(row[1].strip("`"), re.findall("`([^`]*)`", row[2])) for row in table("Formats") if row[1] != "–"]
REFUSED = re.findall(r"`(\{[^`]*\})` → `(\w+)`", PAGE)


def trained(row: Row) -> list[str]:
    """Return what is trained of a row, as the page lists it."""
    match row:
        case Text():
            return [row.text]
        case Tokenised():
            return [str(token) for token, trains in zip(row.ids, row.trained, strict=True) if trains]
        case Example():
            said = [message for message, trains in zip(row.messages, row.train, strict=True) if trains]
            calls = [[call["function"]["name"] for call in message.get("tool_calls", [])] for message in said]
            return [one for message, names in zip(said, calls, strict=True) for one in (names or [message["content"]])]


def of(fields: dict[str, Any]) -> tuple[Row | None, list[str]]:
    """Parse the fields of a row; return it and its problems."""
    found = Findings(1)
    form = recognise_format(fields, found)
    row = read_fields(fields, form, found) if form else None
    return row, [problem.name for problem in found.problems]


def test_the_page_has_an_example_of_every_format() -> None:
    assert len(EXAMPLES) >= 14
    assert len(REFUSED) >= 30
    named = {match[1] for row in table("Formats") if (match := re.match(r"`(\w+)`", row[0]))}
    assert named == {name for name, form in FORMATS.items() if form.needs}


def test_the_settings_know_the_formats() -> None:
    (choices,) = (get_args(kind) for name, kind in _hints().items() if name == "format")
    assert {*choices} == {"auto", *FORMATS}


def _hints() -> dict[str, Any]:
    from typing import get_type_hints

    return get_type_hints(DataSettings)


@pytest.mark.parametrize(("example", "says"), EXAMPLES)
def test_every_example_of_the_page_is_read_and_trained_as_it_says(
    tmp_path: Path, example: str, says: list[str]
) -> None:
    file = tmp_path / "rows"
    file.write_text(example + "\n", encoding="utf-8")
    (row,) = read_rows(file, DataSettings(), tolerated=frozenset())
    assert isinstance(row, Row)
    assert trained(row) == says[-len(trained(row)) :]


@pytest.mark.parametrize(("example", "problem"), REFUSED)
def test_every_refusal_of_the_page_is_one(tmp_path: Path, example: str, problem: str) -> None:
    file = tmp_path / "rows"
    file.write_text(example + "\n", encoding="utf-8")
    (row,) = read_rows(file, DataSettings())
    assert isinstance(row, BadRow)
    assert problem in [found.name for found in row.problems]


def test_mapped_fields_make_any_pair_a_prompt_and_its_completion(tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.write_text('{"question": "q", "answer": "a"}\n{"question": "q"}\n', encoding="utf-8")
    row, bad = read_rows(file, DataSettings(prompt="question", completion="answer"))
    assert isinstance(row, Example)
    assert row.plain
    assert trained(row) == ["a"]
    assert isinstance(bad, BadRow)
    assert "'answer' is missing" in bad.problems[0].message
    found = Findings(1)
    assert recognise_format({"question": "q", "answer": "a"}, found) is None
    assert 'prompt = "question" and completion = "answer"' in found.problems[0].advice


@pytest.mark.parametrize(
    ("fields", "messages", "plain"),
    [
        ({"prompt": "p", "completion": "c"}, [("user", "p"), ("assistant", "c")], True),
        ({"instruction": "i", "input": None, "output": "o"}, [("user", "i"), ("assistant", "o")], True),
        ({"instruction": "i", "input": "", "output": "o", "system": ""}, [("user", "i"), ("assistant", "o")], True),
        ({"instruction": "i", "input": "x", "output": "o"}, [("user", "i\n\nx"), ("assistant", "o")], True),
        (
            {"instruction": "i", "output": "o", "system": "s"},
            [("system", "s"), ("user", "i"), ("assistant", "o")],
            False,
        ),
        (
            {"instruction": "i", "output": "o", "history": [["q", "r"]]},
            [("user", "q"), ("assistant", "r"), ("user", "i"), ("assistant", "o")],
            False,
        ),
        ({"messages": [U, A], "system": "s"}, [("system", "s"), ("user", "u"), ("assistant", "a")], False),
        ({"conversations": [U, A]}, [("user", "u"), ("assistant", "a")], False),
        ({"prompt": [U], "completion": [A]}, [("user", "u"), ("assistant", "a")], False),
    ],
)
def test_whatever_the_format_it_becomes_messages(
    fields: dict[str, Any], messages: list[tuple[str, str]], plain: bool
) -> None:
    row, problems = of(fields)
    assert problems == []
    assert isinstance(row, Example)
    assert [(message["role"], message["content"]) for message in row.messages] == messages
    assert row.train == tuple(role == "assistant" for role, _ in messages)
    assert row.plain is plain


def test_messages_of_a_prompt_are_numbered_on_in_the_completion() -> None:
    found = Findings(1)
    fields = {"prompt": [U], "completion": [{"role": "wizard", "content": "c"}]}
    read_fields(fields, FORMATS["prompt_completion"], found)
    assert found.problems[0].what.startswith("message 2 ")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"input_ids": []}, "bad_tokens"),
        ({"input_ids": "5"}, "bad_tokens"),
        ({"input_ids": [True]}, "bad_tokens"),
        ({"input_ids": [1.0]}, "bad_tokens"),
        ({"input_ids": [[1]]}, "bad_tokens"),
        ({"input_ids": [1, 2], "labels": [1]}, "bad_labels"),
        ({"input_ids": [1, 2], "labels": [1, None]}, "bad_labels"),
        ({"input_ids": [1, 2], "labels": [2, -100]}, "bad_labels"),
        ({"input_ids": [1, 2], "labels": [-100, -100]}, "no_trainable_tokens"),
        ({"input_ids": [1, 2], "labels": [1, -100]}, "no_trainable_tokens"),
        ({"input_ids": [1, 2], "attention_mask": [0, 0]}, "bad_attention_mask"),
        ({"input_ids": [1, 2], "attention_mask": [1, 2]}, "bad_attention_mask"),
        ({"input_ids": [1, 2], "attention_mask": [1]}, "bad_attention_mask"),
        ({"messages": [U, A], "system": ["s"]}, "bad_field"),
        ({"messages": "hello"}, "missing_messages_list"),
        ({"kto_tag": True, "messages": [U, A]}, "preference_data"),
        ({"prompt": 7, "completion": []}, "bad_field"),
        ({"prompt": {"a": 1}, "completion": "c"}, "bad_field"),
        ({"instruction": 7, "output": "o"}, "bad_field"),
        ({}, "unknown_format"),
    ],
)
def test_rows_of_no_format_are_reported(fields: dict[str, Any], problem: str) -> None:
    row, problems = of(fields)
    assert row is None
    assert problem in problems


@pytest.mark.parametrize("empty", ["", " \n"])
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"messages": [{**U, "content": "?"}, A]}, "message 1"),
        ({"messages": [U, {**A, "content": "?"}]}, "message 2"),
        ({"messages": [U, {**A, "content": [{"type": "text", "text": "?"}]}]}, "message 2"),
        ({"messages": [U, {**A, "content": "?", "weight": 0}, U, A]}, "message 2"),
        (
            {"system": "s", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "a"}]},
            "message 1",
        ),
        ({"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "?"}]}, "message 2"),
        ({"prompt": [{**U, "content": "?"}], "completion": [A]}, "message 1"),
        ({"prompt": [U], "completion": [{**A, "content": "?"}]}, "message 2"),
        ({"prompt": "p", "completion": "?"}, "the field 'completion'"),
        ({"instruction": "?", "output": "o"}, "the field 'instruction'"),
        ({"instruction": "i", "output": "?"}, "the field 'output'"),
        ({"instruction": "i", "response": "?"}, "the field 'response'"),
        ({"instruction": "?", "output": "o", "system": "s"}, "the field 'instruction'"),
        ({"instruction": "i", "output": "?", "history": [["u", "a"]]}, "the field 'output'"),
        ({"instruction": "i", "output": "o", "history": [["u", "a"], ["?", "a"]]}, "the question of pair 2"),
        ({"instruction": "i", "output": "o", "history": [["u", "?"], ["u", "a"]]}, "the answer of pair 1"),
        ({"text": "?"}, "the field 'text'"),
    ],
)
def test_an_empty_question_or_answer_is_refused_in_every_format(fields: dict[str, Any], says: str, empty: str) -> None:
    found = Findings(1)
    given = json.loads(json.dumps(fields).replace('"?"', json.dumps(empty)))
    form = recognise_format(given, found)
    assert form is not None
    assert read_fields(given, form, found) is None
    (problem,) = found.problems
    assert problem.name in {"missing_content", "bad_field"}
    assert f"{says}" in problem.message


@pytest.mark.parametrize("empty", ["", " \n"])
def test_an_empty_prompt_is_kept_and_reported(empty: str) -> None:
    """TRL trains the completion alone."""
    row, problems = of({"prompt": empty, "completion": "c"})
    assert isinstance(row, Example)
    assert ([message["content"] for message in row.messages], problems) == ([empty, "c"], ["empty_prompt"])


def test_an_empty_instruction_leaves_its_input() -> None:
    for fields in ({"instruction": "", "input": "2+2"}, {"instruction": "2+2", "input": ""}):
        row, problems = of({**fields, "output": "4"})
        assert isinstance(row, Example)
        assert ([message["content"] for message in row.messages], problems) == (["2+2", "4"], [])


def test_json_of_a_row_is_the_row(tmp_path: Path) -> None:
    """Each example of the page is the same row, at the same line, in an array over several lines."""
    for example, _ in EXAMPLES:
        (tmp_path / "line").write_text(example, encoding="utf-8")
        (tmp_path / "array").write_text(json.dumps([json.loads(example)], indent=1).replace("[\n", "[", 1))
        assert list(read_rows(tmp_path / "line", DataSettings())) == list(read_rows(tmp_path / "array", DataSettings()))
