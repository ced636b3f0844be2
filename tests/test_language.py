"""The words of docs/glossary.md are used, and those that they replace are not.

Checked are names, docstrings, comments and texts of the code, the docs, and names and docstrings of the tests. The
texts in tests are data, and so are the tables that drills and soaks write into the docs. Older entries of the changelog
are history.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"

ALLOWED: dict[str, set[str]] = {
    "tests/crash/devices.py": {"seal"},  # constants of Linux: F_SEAL_WRITE
    "tests/crash/real_disks.py": {"seal"},
    "gpu/data/examine/report.py": {"learned"},  # the key in stored reports
    "gpu/artifacts/version_manifest.py": {"learned"},  # the directory and the key in published versions
    "docs/decisions/0007-versions-hold-all-they-are-made-of.md": {"learned"},
    "gpu/data/plan/store.py": {"learned"},  # `learned.u8`: batch plans hash the name
    "gpu/data/plan/cache.py": {"learned"},
}
"""By file: words that stand there for a reason, such as stored names."""


def _column(number: int) -> set[str]:
    rows = [line.split("|")[1:-1] for line in GLOSSARY.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert all(len(row) == 4 for row in rows)
    words = {word.strip() for row in rows for word in row[number].split(",")}
    return {word for word in words if word and not word.startswith(("-", "do not"))}


TEXT, NAMES = _column(2), _column(3)
"""Words that are not written anywhere; words that are not names."""

IN_TEXT = re.compile(
    r"(?<![\w-])(" + "|".join(word.replace(" ", r"\s+") for word in sorted(TEXT)) + r")(?![\w-])", re.IGNORECASE
)
PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def _files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    skipped = ("docs/glossary.md", "tests/test_language.py")
    return sorted(
        name
        for name in listed.stdout.splitlines()
        if name.endswith((".py", ".md", ".toml")) and name not in skipped and (ROOT / name).is_file()
    )


FILES: dict[str, list[str]] = defaultdict(list)
"""The files of each folder."""
for _file in _files():
    FILES[str(Path(_file).parent)].append(_file)

NAME_PARTS = sorted({word.replace(" ", "_") for word in NAMES | TEXT})
OLDER_ENTRIES = re.compile(r"(?s)\n### .*?\n(?=### |## )")
MEASURED = re.compile(r"(?s)<!-- (drills|soak) -->.*?<!-- /\1 -->")


@cache
def bad_name(name: str) -> str | None:
    """The part of a name that the glossary replaces; None if it has none."""
    parts = f"_{'_'.join(PARTS.findall(name)).lower()}_"
    return next((word for word in NAME_PARTS if f"_{word}_" in parts), None)


def checked_text(name: str, text: str) -> str:
    """The part of a page that people write now, with its line numbers."""
    if name == "CHANGELOG.md" and (newest := OLDER_ENTRIES.search(text)):
        return text[: newest.end()]
    return MEASURED.sub(lambda table: "\n" * table[0].count("\n"), text)


def findings(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Line and word of each fault in the file `name`."""
    if not name.endswith(".py"):
        text = checked_text(name, text)
        yield from ((text.count("\n", 0, found.start()) + 1, found[0]) for found in IN_TEXT.finditer(text))
        return
    docstrings = {
        node.body[0].value.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and ast.get_docstring(node) is not None
        and isinstance(node.body[0], ast.Expr)
    }
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and (word := bad_name(token.string)):
            yield token.start[0], f"{token.string} ({word})"
        is_data = name.startswith("tests/") and token.start[0] not in docstrings
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and not is_data):
            for found in IN_TEXT.finditer(token.string):
                yield token.start[0] + token.string.count("\n", 0, found.start()), found[0]


@pytest.mark.parametrize("folder", FILES)
def test_no_word_is_used_that_the_glossary_replaces(folder: str) -> None:
    """Each fault with its file and line."""
    found = [
        f"{name}:{line}: {word}"
        for name in FILES[folder]
        for line, word in findings(name, (ROOT / name).read_text(encoding="utf-8"))
        if not any(allowed in word.lower() for allowed in ALLOWED.get(name, ()))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learned = 1", ["learned (learned)"]),
        ("# It is in\n#  hand", []),
        ('x = "a file in hand"', ["in hand"]),
        ("def set_aside(): ...", ["set_aside (set_aside)"]),
        ("class WarmPulse: ...", ["WarmPulse (pulse)"]),
        ("learning_rate = 1", []),
    ],
)
def test_a_word_is_found_in_names_and_in_texts(text: str, words: list[str]) -> None:
    assert [word for _, word in findings("cli/x.py", text)] == words


def test_a_text_in_a_test_is_data() -> None:
    assert list(findings("tests/x.py", 'x = "what was learned"')) == []
    assert list(findings("tests/x.py", '"""What was learned."""'))


def test_older_entries_of_the_changelog_and_measured_tables_are_not_checked() -> None:
    """The newest topic and all other lines are, at their line numbers."""
    changelog = "# Changelog\n## Unreleased\n### New\n- a mend\n### Old\n- a mend\n"
    assert list(findings("CHANGELOG.md", changelog)) == [(4, "mend")]
    page = "mend\n<!-- soak -->\nmend\n<!-- /soak -->\nmend\n"
    assert list(findings("docs/page.md", page)) == [(1, "mend"), (5, "mend")]
