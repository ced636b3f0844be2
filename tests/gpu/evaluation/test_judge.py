"""An answer is judged by a rule or by a person's program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from events.generation import ChatMessage
from gpu.evaluation.judge import Check, Judgement, judge

ASKED = (ChatMessage("user", "2 + 2?"),)


def judged(check: Check, answer: str, root: Path, expected: str = "4") -> Judgement:
    return judge(check, ASKED, expected, answer, root)


def test_rules_are_those_of_matching(tmp_path: Path) -> None:
    assert judged(Check("numeric"), "It is 4.", tmp_path) == Judgement(True)
    assert judged(Check("regex", pattern=r"\d"), "5", tmp_path) == Judgement(False)


@pytest.mark.parametrize(("answer", "right"), [("four", True), ("five", False)])
def test_a_program_judges(tmp_path: Path, answer: str, right: bool) -> None:
    """It gets prompt, messages, expected and answer, and its exit code decides."""
    (tmp_path / "check.py").write_text(
        "import json, sys\n"
        "row = json.load(sys.stdin)\n"
        "assert row['prompt'] == row['messages'][-1]['content'] == '2 + 2?', row\n"
        "raise SystemExit(0 if (row['answer'], row['expected']) == ('four', '4') else 1)\n"
    )
    check = Check("command", command=f"{sys.executable} -I -S ./check.py")
    assert judged(check, answer, tmp_path) == Judgement(right)


def test_an_answer_is_not_judged_by_a_program_that_fails(tmp_path: Path) -> None:
    """Right and wrong have one exit code each; the last line of the error is shown."""
    check = Check("command", command=f"{sys.executable} -I -S -c '1 / 0'")
    assert judged(check, "x", tmp_path) == Judgement(
        None, "it ended with exit code 1: ZeroDivisionError: division by zero"
    )
    check = Check("command", command=f"{sys.executable} -I -S -c 'import sys; print(1, file=sys.stderr); sys.exit(2)'")
    assert judged(check, "x", tmp_path) == Judgement(None, "it ended with exit code 2: 1")
    check = Check("command", command=f"{sys.executable} -I -S -c 'import os; os.kill(os.getpid(), 9)'")
    assert judged(check, "x", tmp_path) == Judgement(None, "it was killed by SIGKILL")
    assert judged(Check("command", command="'"), "x", tmp_path).right is None
