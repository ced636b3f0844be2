"""Files of questions: what is asked, and what is refused by file and line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from events.generation import ChatMessage
from gpu.evaluation import question_files
from gpu.evaluation.question_files import read_questions


def write(root: Path, *rows: object, name: str = "a.jsonl") -> Path:
    (root / "evaluation").mkdir(exist_ok=True)
    path = root / "evaluation" / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def problems(root: Path) -> list[str]:
    return [each.text for each in read_questions(root).problems]


def test_questions_are_read(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    write(
        tmp_path,
        {"prompt": "2 + 2?", "expected": "4", "match": "numeric", "id": "sum"},
        "",
        {"messages": [system, {"role": "user", "content": "Capital?"}], "expected": "Paris"},
        {"prompt": "x", "expected": "1", "match": "regex", "pattern": r"\d"},
        {"prompt": "x", "command": "true"},
    )
    found = read_questions(tmp_path)
    assert found.problems == ()
    first, second, third, fourth = found.questions
    assert (first.id, first.prompt, first.expected, first.check.match, first.line) == (
        "sum",
        "2 + 2?",
        "4",
        "numeric",
        1,
    )
    assert second.messages == (ChatMessage("system", "Be brief."), ChatMessage("user", "Capital?"))
    assert second.check.match == "normalized"
    assert (second.line, third.check.pattern, fourth.check.command) == (3, r"\d", "true")


def test_a_home_without_questions_has_none(tmp_path: Path) -> None:
    assert read_questions(tmp_path) == question_files.QuestionSet()
    write(tmp_path)
    assert read_questions(tmp_path) == question_files.QuestionSet()


def test_the_fingerprint_follows_the_questions_alone(tmp_path: Path) -> None:
    one, two = {"prompt": "a", "expected": "1"}, {"prompt": "b", "expected": "2"}
    write(tmp_path, one, two)
    first = read_questions(tmp_path).fingerprint
    write(tmp_path, two)
    assert read_questions(tmp_path).fingerprint != first
    write(tmp_path, one, name="0.jsonl")
    assert read_questions(tmp_path).fingerprint == first


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("{", "broken JSON"),
        ('{"prompt": "a", "prompt": "b", "expected": "c"}', 'the object has the key "prompt" twice'),
        ([1], "it is not an object"),
        ({"prompt": "a", "expected": "b", "answer": "b"}, "unknown key 'answer'"),
        ({"expected": "b"}, "it needs either prompt or messages"),
        ({"prompt": "a", "messages": [], "expected": "b"}, "not both"),
        ({"prompt": "a"}, "it has no expected"),
        ({"prompt": " ", "expected": "b"}, "prompt is empty"),
        ({"prompt": "a", "expected": 4}, 'write it in quotes, as "4"'),
        ({"prompt": "a" * 20_001, "expected": "b"}, "prompt has 20,001 characters"),
        ({"prompt": "a", "expected": "b", "match": "fuzzy"}, "match is 'fuzzy'; known are exact, "),
        ({"prompt": "a", "expected": "b", "match": ["exact"]}, "match is ['exact']"),
        ({"prompt": "a", "expected": "b", "match": "regex"}, "match = 'regex' needs a pattern"),
        ({"prompt": "a", "expected": "b", "pattern": "x"}, "pattern is for match = 'regex'"),
        ({"prompt": "a", "expected": "b", "match": "regex", "pattern": "("}, "pattern is no regular expression"),
        ({"prompt": "a", "expected": "b", "match": "numeric"}, "needs a number in expected"),
        ({"prompt": "a", "expected": "...", "match": "contains"}, "needs a word in expected"),
        ({"prompt": "a", "match": "command"}, "match = 'command' needs a command"),
        ({"prompt": "a", "command": "no-such-program-here"}, "there is no program no-such-program-here"),
        ({"prompt": "a", "command": "'"}, "command cannot be split into words"),
        ({"messages": [{"role": "user"}], "expected": "b"}, "message 1 does not have exactly role and content"),
        ({"messages": [{"role": "boss", "content": "a"}], "expected": "b"}, "message 1 has the role 'boss'"),
        ({"messages": [{"role": ["user"], "content": "a"}], "expected": "b"}, "message 1 has the role"),
        ({"messages": [{"role": "assistant", "content": "a"}], "expected": "b"}, "nothing to answer"),
        ({"prompt": "a", "expected": "b", "id": "x\ny"}, "id has other characters"),
    ],
)
def test_a_wrong_row_is_named_and_the_others_are_asked(tmp_path: Path, row: object, what: str) -> None:
    write(tmp_path, {"prompt": "ok", "expected": "ok"}, row)
    assert len(read_questions(tmp_path).questions) == 1
    (problem,) = problems(tmp_path)
    assert problem.startswith("evaluation/a.jsonl, line 2: ")
    assert what in problem


def test_a_repeated_question_is_asked_once(tmp_path: Path) -> None:
    row = {"prompt": "a", "expected": "b"}
    write(tmp_path, row)
    write(tmp_path, {"prompt": "c", "expected": "d"}, row, name="b.jsonl")
    assert len(read_questions(tmp_path).questions) == 2
    (problem,) = problems(tmp_path)
    assert problem.startswith("evaluation/b.jsonl, line 2: an earlier question has the id")


def test_other_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link, a file that is too large, another kind of file, one file or one question too many."""
    monkeypatch.setattr(question_files, "FILE_BYTES_MAX", 500)
    monkeypatch.setattr(question_files, "FILES_MAX", 3)
    monkeypatch.setattr(question_files, "QUESTIONS_MAX", 1)
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"prompt": "a", "expected": "b"}\n')
    write(tmp_path, {"prompt": "1", "expected": "1"}, {"prompt": "2", "expected": "2"}, name="1.jsonl")
    (tmp_path / "evaluation" / "2.jsonl").symlink_to(secret)
    write(tmp_path, "x" * 500, name="3.jsonl")
    write(tmp_path, name="4.jsonl")
    write(tmp_path, name="5.json")
    write(tmp_path, "{", name=".6.jsonl")
    assert problems(tmp_path) == [
        "evaluation/5.json: it is not read: name it .jsonl, with an object on each line",
        "evaluation/4.jsonl: it is not read: 3 files are the most",
        "evaluation/2.jsonl: it cannot be read: it is a symbolic link, not a file; move it away, then try again",
        "evaluation/3.jsonl: it has 501 bytes; 500 are the most",
        "evaluation/1.jsonl, line 2: this question and those after it are not asked: 1 are the most, and 2 exist",
    ]


def test_a_file_in_place_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "evaluation").write_text("")
    assert problems(tmp_path) == ["evaluation: it is a file, not a directory"]


def test_commands_of_other_users_are_not_run(tmp_path: Path) -> None:
    """Only commands: a file of plain questions runs nothing."""
    path = write(tmp_path, {"prompt": "a", "expected": "b"}, {"prompt": "a", "command": "true"})
    path.chmod(0o666)
    assert len(read_questions(tmp_path).questions) == 1
    assert problems(tmp_path)[0].endswith("other users can write to the file; run chmod go-w")
    path.chmod(0o664)
    assert problems(tmp_path) == []
    tmp_path.chmod(0o2750)  # a home that is shared with a group
    assert problems(tmp_path)[0].endswith("other users can write to the file; run chmod go-w")
    path.chmod(0o644)
    os.chmod(path.parent, 0o777)  # noqa: PTH101
    assert problems(tmp_path)[0].endswith("other users can write to the directory evaluation; run chmod go-w")
