"""`keepstep config check` names every question that cannot be asked; `keepstep doctor` says how many."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.config.questions import check_questions
from cli.doctor.context import DoctorContext
from cli.doctor.home import questions
from cli.errors import UserError
from cli.home.paths import Home

GOOD = '{"prompt": "2 + 2?", "expected": "4"}\n'


def ask(home: Home, text: str) -> None:
    home.questions.mkdir(exist_ok=True)
    (home.questions / "a.jsonl").write_text(text)


def test_questions_that_can_be_asked_are_counted(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert check_questions(home) == []
    assert questions(DoctorContext(home)).message == "no question is in evaluation/"
    ask(home, GOOD)
    assert check_questions(home) == [f"all 1 questions in {home.questions} can be asked"]
    assert questions(DoctorContext(home)) == ("pass", "1 question in evaluation/ can be asked", "")


def test_problems_are_listed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    ask(home, GOOD + "{}\n" * 22)
    with pytest.raises(UserError) as refused:
        check_questions(home)
    lines = str(refused.value).splitlines()
    assert lines[0] == "questions that are not asked (1 others are):"
    assert lines[1] == "  evaluation/a.jsonl, line 2: it needs either prompt or messages"
    assert "and 2 more" in str(refused.value)
    finding = questions(DoctorContext(home))
    assert finding.level == "warn"
    assert finding.message.startswith("not asked: evaluation/a.jsonl, line 2: ")
    assert finding.message.endswith("(and 21 more)")
