"""The table of problems, the page that shows it, and the code that uses it."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from gpu.data.problems import PROBLEMS, TOLERATED, Findings, as_text, type_name

ROOT = Path(__file__).parents[3]


def test_the_page_has_every_problem_with_its_level_and_meaning() -> None:
    page = (ROOT / "docs" / "reference" / "data-formats.md").read_text(encoding="utf-8").partition("\n## Problems\n")[2]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", page, re.MULTILINE)
    assert rows == [(name, kind.level, kind.meaning) for name, kind in PROBLEMS.items()]


def test_every_problem_that_the_code_names_is_in_the_table_and_the_other_way_round() -> None:
    modules = [path for path in (ROOT / "gpu" / "data").rglob("*.py") if path.name != "problems.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in modules)
    calls = "add|UnreadableFile|UnsupportedFile|Problem|JsonFault|_finding|_check_finding|_pair_findings"
    named = set(re.findall(rf'(?:{calls})\(\s*"(\w+)"', text))
    assert named <= {*PROBLEMS}
    assert {name for name in PROBLEMS if f'"{name}"' not in text} == set()


@pytest.mark.parametrize(
    ("name", "broken"), [("bad_field", True), ("assistant_first", False), ("same_role_twice", False)]
)
def test_only_some_problems_leave_no_row(name: str, broken: bool) -> None:
    found = Findings(3)
    assert not found.broken
    found.add(name, "it is wrong", {"a": "é"}, "Correct it.")
    assert found.broken is broken
    assert found.problems[0].message == 'Line 3: it is wrong: {"a": "é"}\nCorrect it.'


def test_a_warning_does_not_refuse() -> None:
    assert {"same_role_twice", "message_unrecognized_key"} <= TOLERATED
    assert not TOLERATED & {"assistant_first", "broken_json"}


def test_values_are_named_in_words() -> None:
    values = [{}, [], [1], "a", True, 1, 1.5, None, b"a", datetime.date(2026, 1, 2)]
    assert [type_name(value) for value in values] == [
        *("an object", "an empty list", "a list", "a string", "a boolean", "a number", "a number", "null"),
        *("binary data", "a date"),
    ]
    assert as_text(datetime.date(2026, 1, 2)) == '"2026-01-02"'
