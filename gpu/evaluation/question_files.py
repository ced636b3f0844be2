"""Read the questions of a home: `evaluation/*.jsonl`, a JSON object on each line.

    {"prompt": "What is 2 + 2?", "expected": "4", "match": "numeric"}
    {"messages": [{"role": "system", "content": "…"}, {"role": "user", "content": "…"}], "expected": "…"}
    {"prompt": "Write a haiku.", "match": "command", "command": "python3 ./evaluation/syllables.py"}

A row that cannot be used is named by file and line, and is not asked. All other rows are.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec

from events.generation import ChatMessage, Role
from events.matching import Verifier, last_number, normalized
from gpu.data.read import strict_json
from gpu.evaluation.judge import Check
from gpu.evaluation.program import program_problem, split_command
from journal import durable
from journal.storage import REAL, Storage, is_shared_with_group

DIRECTORY = "evaluation"
"""The directory of the home with the files of questions."""

FILES_MAX, FILE_BYTES_MAX, QUESTIONS_MAX = 16, 4 << 20, 1_000
"""Each question is answered after each job: more take longer than they tell."""

TEXT_CHARACTERS_MAX, EXPECTED_CHARACTERS_MAX, ID_CHARACTERS_MAX = 20_000, 4_000, 64

KEYS = ("prompt", "messages", "expected", "match", "pattern", "command", "id")

_ID = re.compile(r"[\w.:/ -]+")
_OTHER_ENDINGS = (".json", ".jsonl.gz", ".jsonl.zst", ".csv", ".parquet")
"""Names that look like data, but are not read."""


class SuiteQuestion(NamedTuple):
    """A question of a person, with the answer that is expected and how answers are judged."""

    id: str
    """The row's `id`; without one, a hash of its content."""
    messages: tuple[ChatMessage, ...]
    expected: str
    check: Check
    file: str
    """The name of its file in `evaluation/`."""
    line: int

    @property
    def prompt(self) -> str:
        """The last message."""
        return self.messages[-1].content


class QuestionProblem(NamedTuple):
    """Why a row, or a file, cannot be used."""

    file: str
    """Relative to the home."""
    line: int | None
    """None: the file as a whole."""
    what: str
    """A clause: "it has no prompt"."""

    @property
    def text(self) -> str:
        """The problem with its place."""
        return f"{self.file}, line {self.line}: {self.what}" if self.line is not None else f"{self.file}: {self.what}"


class QuestionSet(NamedTuple):
    """The questions of a home."""

    questions: tuple[SuiteQuestion, ...] = ()
    """By file name and line."""
    problems: tuple[QuestionProblem, ...] = ()
    fingerprint: str = ""
    """SHA-256 of the questions and their checks, in any order and from any files; "": there is none."""


class _Unusable(Exception):
    """A row cannot be used; the text says why."""


def read_questions(root: Path, *, storage: Storage = REAL) -> QuestionSet:
    """Read all files of questions of the home `root`. Raises OSError if the directory cannot be listed.

    Each file is opened once, links are not followed, and a file that is too large is not read.
    """
    directory = root / DIRECTORY
    try:
        names = sorted(storage.names(directory))
    except FileNotFoundError:
        return QuestionSet()
    except NotADirectoryError:
        return QuestionSet(problems=(QuestionProblem(DIRECTORY, None, "it is a file, not a directory"),))
    questions: list[SuiteQuestion] = []
    problems = [
        QuestionProblem(f"{DIRECTORY}/{name}", None, "it is not read: name it .jsonl, with an object on each line")
        for name in names
        if name.endswith(_OTHER_ENDINGS) and not name.startswith(".")
    ]
    files = [name for name in names if name.endswith(".jsonl") and not name.startswith(".")]
    too_many = f"it is not read: {FILES_MAX} files are the most"
    problems += [QuestionProblem(f"{DIRECTORY}/{name}", None, too_many) for name in files[FILES_MAX:]]
    may_run = _may_run_commands(root, directory, storage)
    for name in files[:FILES_MAX]:
        for found in _read_file(root, name, may_run, storage):
            (questions if isinstance(found, SuiteQuestion) else problems).append(found)  # type: ignore[arg-type]
    kept = list(_without_repeated_ids(questions, problems))
    if len(kept) > QUESTIONS_MAX:
        first = kept[QUESTIONS_MAX]
        what = (
            f"this question and those after it are not asked: {QUESTIONS_MAX:,} are the most, and {len(kept):,} exist"
        )
        problems.append(QuestionProblem(f"{DIRECTORY}/{first.file}", first.line, what))
        kept = kept[:QUESTIONS_MAX]
    return QuestionSet(tuple(kept), tuple(problems), fingerprint(kept))


def fingerprint(questions: list[SuiteQuestion]) -> str:
    """Return the SHA-256 of what is asked and how it is judged; "" for no questions."""
    if not questions:
        return ""
    rows = sorted(msgspec.json.encode((each.id, each.messages, each.expected, each.check)) for each in questions)
    return hashlib.sha256(b"\n".join(rows)).hexdigest()


def _read_file(root: Path, name: str, may_run: str, storage: Storage) -> Iterator[SuiteQuestion | QuestionProblem]:
    place = f"{DIRECTORY}/{name}"
    try:
        with durable.opened(storage, root / place, os.O_RDONLY) as fd:
            size_bytes = storage.size(fd)
            if size_bytes > FILE_BYTES_MAX:
                what = f"it has {size_bytes:,} bytes; {FILE_BYTES_MAX:,} are the most"
                yield QuestionProblem(place, None, what)
                return
            may_run = may_run or _may_be_written(fd, root, storage)
            data = b"".join(durable.chunks(storage, fd, FILE_BYTES_MAX + 1))
    except OSError as error:
        yield QuestionProblem(place, None, f"it cannot be read: {error.strerror}")
        return
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if raw.strip():
            try:
                yield _question(raw, root, name, number, may_run)
            except _Unusable as error:
                yield QuestionProblem(place, number, str(error))


def _question(raw: bytes, root: Path, name: str, line: int, may_run: str) -> SuiteQuestion:
    """Return the question of a line. Raises _Unusable."""
    try:
        row = strict_json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise _Unusable(f"it is not UTF-8 (byte {error.start + 1})") from error
    except strict_json.InvalidJson as error:
        raise _Unusable(str(error)) from error
    if not isinstance(row, dict):
        raise _Unusable('it is not an object such as {"prompt": "…", "expected": "…"}')
    if unknown := [key for key in row if key not in KEYS]:
        raise _Unusable(f"unknown key {unknown[0]!r}; the keys are {', '.join(KEYS)}")
    messages = _messages(row)
    check = _check(row, root, may_run)
    expected = _text(row, "expected", EXPECTED_CHARACTERS_MAX) if "expected" in row or check.match != "command" else ""
    _refuse_unmatchable(check, expected)
    if "id" in row:
        own_id = _text(row, "id", ID_CHARACTERS_MAX)
        if not _ID.fullmatch(own_id):
            raise _Unusable("id has other characters than letters, digits, spaces and . : / - _")
    else:
        own_id = hashlib.sha256(msgspec.json.encode((messages, expected, check))).hexdigest()[:12]
    return SuiteQuestion(own_id, messages, expected, check, name, line)


def _messages(row: dict[str, Any]) -> tuple[ChatMessage, ...]:
    if ("prompt" in row) == ("messages" in row):
        raise _Unusable("it needs either prompt or messages" + (", not both" if "prompt" in row else ""))
    if "prompt" in row:
        return (ChatMessage("user", _text(row, "prompt", TEXT_CHARACTERS_MAX)),)
    given = row["messages"]
    if not isinstance(given, list) or not given:
        raise _Unusable("messages is not a list of messages")
    messages = []
    for number, each in enumerate(given, start=1):
        if not isinstance(each, dict) or set(each) != {"role", "content"}:
            raise _Unusable(f"message {number} does not have exactly role and content")
        if each["role"] not in get_args(Role):
            raise _Unusable(f"message {number} has the role {each['role']!r}; known are {', '.join(get_args(Role))}")
        messages.append(ChatMessage(each["role"], _text(each, "content", TEXT_CHARACTERS_MAX, f"message {number}: ")))
    if messages[-1].role != "user":
        raise _Unusable("the last message is not of the user, so there is nothing to answer")
    return tuple(messages)


def _check(row: dict[str, Any], root: Path, may_run: str) -> Check:
    match = row.get("match", "command" if "command" in row else "normalized")
    if match not in get_args(Verifier):
        raise _Unusable(f"match is {match!r}; known are {', '.join(get_args(Verifier))}")
    for key, owner in (("pattern", "regex"), ("command", "command")):
        if (key in row) != (match == owner):
            raise _Unusable(f"match = {owner!r} needs a {key}" if match == owner else f"{key} is for match = {owner!r}")
    if match == "regex":
        pattern = _text(row, "pattern", EXPECTED_CHARACTERS_MAX)
        try:
            re.compile(pattern)
        except re.error as error:
            raise _Unusable(f"pattern is no regular expression: {error}") from error
        return Check(match, pattern=pattern)
    if match == "command":
        if may_run:
            raise _Unusable(f"its command is not run: {may_run}")
        command = _text(row, "command", EXPECTED_CHARACTERS_MAX)
        try:
            problem = program_problem(split_command(command, root))
        except ValueError as error:
            raise _Unusable(f"command cannot be split into words: {error}") from error
        if problem is not None:
            raise _Unusable(f"its command cannot be run: {problem}")
        return Check(match, command=command)
    return Check(match)


def _text(row: dict[str, Any], key: str, characters_max: int, place: str = "") -> str:
    """Return a text of a row that is not empty. Raises _Unusable."""
    if key not in row:
        raise _Unusable(f"{place}it has no {key}")
    value = row[key]
    if not isinstance(value, str):
        raise _Unusable(f'{place}{key} is not a text; write it in quotes, as "{str(value)[:20]}"')
    if not value.strip():
        raise _Unusable(f"{place}{key} is empty")
    if len(value) > characters_max:
        raise _Unusable(f"{place}{key} has {len(value):,} characters; {characters_max:,} are the most")
    return value


def _refuse_unmatchable(check: Check, expected: str) -> None:
    """Raise _Unusable if no answer could ever be right."""
    if check.match == "numeric" and last_number(expected) is None:
        raise _Unusable(f'match = "numeric" needs a number in expected, which is {expected[:40]!r}')
    if check.match == "contains" and not normalized(expected):
        raise _Unusable(f'match = "contains" needs a word in expected, which is {expected[:40]!r}')


def _without_repeated_ids(questions: list[SuiteQuestion], problems: list[QuestionProblem]) -> Iterator[SuiteQuestion]:
    """Yield the questions whose id is their own; later ones with the same id become problems."""
    count: Counter[str] = Counter()
    for each in questions:
        count[each.id] += 1
        if count[each.id] == 1:
            yield each
        else:
            what = f"an earlier question has the id {each.id!r} too, or is the same; this one is not asked"
            problems.append(QuestionProblem(f"{DIRECTORY}/{each.file}", each.line, what))


def _may_run_commands(root: Path, directory: Path, storage: Storage) -> str:
    """Return why commands of all files are not run; "": they are."""
    with durable.opened(storage, directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        return _may_be_written(fd, root, storage)


def _may_be_written(fd: int, root: Path, storage: Storage) -> str:
    """Return who else can write to an open file or directory, and so could run commands as this user; "": nobody."""
    found = storage.fstat(fd)
    shared = is_shared_with_group(storage.stat(root).st_mode)
    if found.st_mode & stat.S_IWOTH or (shared and found.st_mode & stat.S_IWGRP):
        what = "directory evaluation" if stat.S_ISDIR(found.st_mode) else "file"
        return f"other users can write to the {what}; run chmod go-w"
    if found.st_uid not in {os.geteuid(), 0}:
        return "another user owns the file"
    return ""
